"""The whole command on a terminal of its own."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from pathlib import Path

import pytest

from unshard.testing.object_store import FakeObjectStore

ROWS, COLUMNS = 10, 70
CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\r")
UP = re.compile(r"(?:\x1b\[1A\x1b\[2K)+")


@pytest.mark.slow
def test_progress_keeps_within_the_terminal_and_goes_when_it_is_done(tmp_path: Path) -> None:
    (tmp_path / "objects").mkdir()
    with FakeObjectStore(tmp_path / "objects") as store:
        for number in range(40):
            store.put(f"reshard-model_part-{number}.pt", b"PK\x03\x04" + bytes(250_000))
        template = store.presigned_url("reshard-model_part-*.pt")
        output = on_a_terminal(
            "download", template, str(tmp_path / "target"), "--parts", "40",
            "--max-connections", "16", "--max-rate", "5MB",
        )  # fmt: skip
    frames = UP.split(output)
    assert any("+ 9 more" in frame for frame in frames)
    assert max(frame.count("\n") for frame in frames) < ROWS
    lines = [CONTROL.sub("", line) for frame in frames for line in frame.splitlines()]
    assert max(map(len, lines[:-1])) <= COLUMNS
    assert any(re.fullmatch(r"download .*\d+/40 files +[\d.]+ MB of 10.0 MB .*", x) for x in lines)
    assert "40 of 40 files fetched" in frames[-1]


def on_a_terminal(*arguments: str) -> str:
    """What `unshard` writes to a terminal of `ROWS` x `COLUMNS`."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
    size = {"COLUMNS", "LINES"}
    environment = {name: value for name, value in os.environ.items() if name not in size}
    with subprocess.Popen(
        [sys.executable, "-m", "unshard", *arguments],
        stdin=slave, stdout=slave, stderr=slave, env={**environment, "TERM": "xterm"},
    ) as process:  # fmt: skip
        os.close(slave)
        output = b""
        try:
            while piece := os.read(master, 2**16):
                output += piece
        except OSError:  # the other end was closed
            pass
        os.close(master)
    assert process.returncode == 0
    return output.decode()
