"""Whatever a file holds: it is read or refused within seconds and 200 MB."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = Path(__file__).with_name("heavy_files.py")
MAX_SECONDS = 10.0
"""Of CPU. Each takes below one on an idle core; what is not linear would take minutes."""
MAX_MEGABYTES = 200

TYPICAL = (
    "pickle: lists", "pickle: objects", "pickle: the same long key",
    "pickle: the same tuple as key", "pickle: tensors without end",
    "zip: byteorder of 4 GiB", "zip: pickle of 4 GiB", "header: 10 MB of spaces", "header: names",
)  # fmt: skip


def check(folder: Path, *attacks: str) -> None:
    command = [sys.executable, str(PROGRAM), str(folder), *attacks]
    ran = subprocess.run(command, capture_output=True, check=True)
    found = json.loads(ran.stdout)
    assert len(found) >= len(attacks)
    for attack, (outcome, seconds, megabytes) in found.items():
        assert outcome in {"read", "refused"}, (attack, outcome, ran.stderr)
        assert seconds < MAX_SECONDS, (attack, seconds)
        assert megabytes < MAX_MEGABYTES, (attack, megabytes)


@pytest.mark.slow
def test_typical_files(tmp_path: Path) -> None:
    check(tmp_path, *TYPICAL)


@pytest.mark.slow
def test_all_files(tmp_path: Path) -> None:
    check(tmp_path)
