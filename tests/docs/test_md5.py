"""docs/md5.md tells the facts that the program knows."""

from __future__ import annotations

import re
from pathlib import Path

from unshard.cli.main import COMMANDS
from unshard.releases import KNOWN_PARTS

PAGE = (Path(__file__).parents[2] / "docs/md5.md").read_text()


def test_every_known_set_is_there() -> None:
    rows = re.findall(r"^\| `[0-9a-f]{32}`.*$", PAGE, re.MULTILINE)
    assert len(rows) == len(KNOWN_PARTS)
    for row, parts in zip(rows, KNOWN_PARTS, strict=True):
        assert parts.md5s[0] in row
        assert row.endswith(f"| {', '.join(f'#{number}' for number in parts.issues)} |")


def test_its_commands_exist() -> None:
    named = re.findall(r"(?:`|^\$ )unshard ([a-z]+)", PAGE, re.MULTILINE)
    assert len(named) > 5
    assert set(named) <= set(COMMANDS)
