"""Keys come from three places, and show in none."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from unshard.cli.main import main
from unshard.cli.manners_options import KEY_VARIABLE, chosen_manners, manners_options
from unshard.errors import UsageError
from unshard.server.manners import Manners


def chosen(*arguments: str | Path) -> Manners:
    found = []

    @click.command()
    @manners_options
    def command(**options):
        found.append(chosen_manners(**options))

    outcome = CliRunner().invoke(command, [*map(str, arguments)], catch_exceptions=False)
    assert outcome.exit_code == 0, outcome.output
    return found[0]


def test_without_options_the_defaults_hold():
    assert chosen() == Manners()


def test_each_option_arrives():
    assert chosen(
        *("--cors-origin", "https://a.example", "--cors-origin", "*", "--max-queue", "5"),
        *("--request-timeout", "1.5", "--client-timeout", "2", "--drain-seconds", "0"),
        *("--access-log", "--log-prompts"),
    ) == Manners((), ("https://a.example", "*"), 5, 1.5, 2, 0, access_log=True, log_prompts=True)


def test_keys_from_all_places_are_all_keys(tmp_path, monkeypatch):
    monkeypatch.setenv(KEY_VARIABLE, "e1 e2")
    file = tmp_path / "keys"
    file.write_text("# of the team\nf1\n\n  f2  # Ann's\ne1\n#old\nf3#x\n")
    manners = chosen("--api-key", "a1", "--api-key", "a2", "--api-key-file", file)
    assert sorted(manners.api_keys) == ["a1", "a2", "e1", "e2", "f1", "f2", "f3#x"]


def test_the_environment_of_children_has_no_key(monkeypatch):
    monkeypatch.setenv(KEY_VARIABLE, "e1")
    assert chosen().api_keys == ("e1",)
    assert chosen().api_keys == ()


@pytest.mark.parametrize("text", ["", "# nothing\n\n", "two words\n", "ké\n", "a\x00b\n"])
def test_a_file_without_a_good_key_does_not_open_the_server(tmp_path, text):
    file = tmp_path / "keys"
    file.write_text(text)
    with pytest.raises(UsageError, match="keys: ") as refused:
        chosen("--api-key-file", file)
    assert not any(line in str(refused.value) for line in text.split("\n") if line)


@pytest.mark.parametrize("key", ["", " ", "a b", "é", "a\n"])
def test_a_bad_key_is_refused_without_being_said(key):
    with pytest.raises(UsageError) as refused:
        chosen("--api-key", key)
    assert str(refused.value) == "--api-key: a key is one or more ASCII characters without spaces"


def test_a_file_that_is_not_there(capsys, tmp_path):
    assert main(["serve", "x", "--api-key-file", str(tmp_path / "none")]) == 2
    assert "No such file" in capsys.readouterr().err


def test_prompts_are_not_logged_by_half():
    with pytest.raises(UsageError, match="without --access-log"):
        chosen("--log-prompts")


def test_a_key_leaves_the_list_of_processes():
    program = (
        "import sys, pathlib; from unshard.cli.own_arguments import hide;"
        "hide(['sesame', '']); print(pathlib.Path('/proc/self/cmdline').read_text())"
    )
    shown = subprocess.run(
        [sys.executable, "-c", program, "--api-key", "sesame", "--api-key=sesame", "stays"],
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    *_, first, second, third, fourth, _ = shown.split("\0")
    assert (first, second, third, fourth) == ("--api-key", "xxxxxx", "--api-key=xxxxxx", "stays")
