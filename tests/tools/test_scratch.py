"""A folder that goes with its process."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from unshard.testing.scratch import Scratch

MAKE = """
import sys; from pathlib import Path; from unshard.testing.scratch import Scratch
scratch = Scratch("x", Path(sys.argv[1])); (scratch.path / "a").touch()
if sys.argv[2:]: scratch.keep()
print(flush=True); sys.stdin.read()
"""


def killed(folder: Path, *options: str, by: int = signal.SIGKILL) -> None:
    """Returns when nobody that wrote to its output is left."""
    command = [sys.executable, "-c", MAKE, str(folder), *options]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, **pipes) as process:  # type: ignore[call-overload]
        process.stdout.readline()
        process.send_signal(by)
        assert process.stdout.read() == b""


@pytest.mark.parametrize("by", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_it_goes_when_its_process_is_killed(tmp_path: Path, by: int) -> None:
    killed(tmp_path, by=by)
    assert not list(tmp_path.iterdir())


def test_one_that_is_kept_stays(tmp_path: Path) -> None:
    killed(tmp_path, "keep")
    [folder] = tmp_path.iterdir()
    assert (folder / "a").exists()


def test_it_goes_after_an_error(tmp_path: Path) -> None:
    with pytest.raises(IsADirectoryError), Scratch("x", tmp_path) as folder:
        folder.write_bytes(b"")
    assert not list(tmp_path.iterdir())
