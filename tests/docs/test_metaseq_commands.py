"""docs/metaseq-commands.md tells the options that there are, with their defaults."""

from __future__ import annotations

import re
from pathlib import Path

import click
import pytest

from unshard.cli.main import main
from unshard.cli.metaseq import command

PAGE = (Path(__file__).parents[2] / "docs/metaseq-commands.md").read_text()


def table(title: str) -> dict[tuple[str, ...], str]:
    """Option names -> default, of the table with this title."""
    [block] = re.findall(rf"^\| {re.escape(title)} \|.*?\n\n", PAGE, re.MULTILINE | re.DOTALL)
    rows = re.findall(r"^\| (`--.*?) \|(.*?)\|", block, re.MULTILINE)
    return {tuple(re.findall(r"`(.*?)`", names)): default.strip("` ") for names, default in rows}


@pytest.mark.parametrize("name", ["reshard-fsdp", "reshard-mp"])
def test_options_and_defaults(name: str) -> None:
    found = {
        tuple(option.opts): "" if option.required else str(option.default)
        for option in command.commands[name].params
        if isinstance(option, click.Option)
    }
    assert table(f"`{name}`") | table("both, not in the originals") == found


@pytest.mark.parametrize("name", ["reshard-fsdp", "reshard-mp"])
def test_help(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["metaseq", name, "--help"]) == 0
    assert "--torch-version" in capsys.readouterr().out


def test_links_exist() -> None:
    for link in re.findall(r"\]\(([^)]+)\)", PAGE):
        assert (Path(__file__).parents[2] / "docs" / link).exists(), link
