"""docs/scale-out.md names commands, options and figures that are the program's."""

from __future__ import annotations

import ast
import importlib.util
import re
import shlex
from pathlib import Path

from unshard.cli.reshard import command

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs/scale-out.md"
TEXT = PAGE.read_text()


def test_its_command_is_one() -> None:
    [line] = re.findall(r"^\$ unshard reshard (.*)$", TEXT, re.MULTILINE)
    options = command.make_context("reshard", shlex.split(line)).params
    assert options["executor"] == "ray"
    assert options["workers"] == 32


def test_its_options_exist() -> None:
    known = {name for option in command.params for name in option.opts}
    named = set(re.findall(r"`(--[a-z-]+)", TEXT))
    assert "--ray-address" in named
    assert named <= known


def test_what_it_imports_is_there() -> None:
    [code] = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    for line in ast.parse(code).body:
        if isinstance(line, ast.ImportFrom):
            found = importlib.util.find_spec(str(line.module))
            assert found is not None
            assert found.origin is not None
            source = Path(found.origin).read_text()
            assert all(f"def {name.name}(" in source for name in line.names)


def test_links_exist() -> None:
    for link in re.findall(r"\]\(([^)#]+)\)", TEXT):
        assert link.startswith("https:") or (PAGE.parent / link).exists(), link
    for path in re.findall(r"`([a-z_/]+\.py)`", TEXT):
        assert (ROOT / path).exists(), path
