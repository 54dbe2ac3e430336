"""`unshard reshard --executor ray`, as a shell sees it."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from unshard.cli.main import INTERRUPTED, main
from unshard.errors import UsageError
from unshard.testing.tiny_checkpoint import Array

pytestmark = pytest.mark.ray

Raw = tuple[Path, dict[str, Array]]

SLOW = """
import sys, time
from unshard.cli.main import main
from unshard.execute import run
class SlowCopier(run.Copier):
    def run(self, task, buffers):
        for _ in range(1000):
            time.sleep(0.01)
        return super().run(task, buffers)
run.Copier = SlowCopier
sys.exit(main(sys.argv[1:]))
"""


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def titles() -> list[str]:
    """What Ray's workers on this machine are doing, by the names of their processes."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            found.append(path.read_bytes().split(b"\0")[0].decode())
        except OSError:
            continue
    return [title for title in found if title.startswith("ray::")]


def reshard(raw: Path, out: Path, cluster: str, *options: str) -> list[str]:
    return [
        "reshard", str(raw), str(out), "--to", "metaseq", "--tp", "1", "--executor", "ray",
        "--ray-address", cluster, "--workers", "2", *options,
    ]  # fmt: skip


def test_the_command(raw: Raw, tmp_path: Path, cluster: str) -> None:
    command = [sys.executable, "-m", "unshard", *reshard(raw[0], tmp_path / "ray", cluster)]
    done = subprocess.run([*command, "--json"], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["files"][0] == str(tmp_path / "ray/reshard-model_part-0.pt")
    assert main(["reshard", str(raw[0]), str(tmp_path / "threads"), *command[6:10]]) == 0
    assert contents(tmp_path / "ray") == contents(tmp_path / "threads")


def test_ctrl_c_leaves_the_cluster_healthy(raw: Raw, tmp_path: Path, cluster: str) -> None:
    arguments = reshard(raw[0], tmp_path / "ray", cluster)
    process = subprocess.Popen(
        [sys.executable, "-c", SLOW, *arguments], stderr=subprocess.PIPE, text=True
    )
    end = time.monotonic() + 100
    while titles().count("ray::_run_batch") < 2 and time.monotonic() < end:
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=100)
    assert process.returncode == INTERRUPTED
    assert errors.splitlines()[-1] == "interrupted"
    assert "ray::_run_batch" not in titles()
    command = [sys.executable, "-m", "unshard"]
    subprocess.run([*command, *arguments], check=True, stdout=subprocess.DEVNULL)
    subprocess.run([*command, "diff", str(raw[0]), str(tmp_path / "ray")], check=True)


def test_no_cluster_is_said_in_seconds(
    raw: Raw, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from unshard.execute import ray_cluster

    monkeypatch.setattr(ray_cluster, "CONNECT_TIMEOUT_S", 4)
    assert main(reshard(raw[0], tmp_path / "out", "127.0.0.4:1")) == UsageError.exit_code
    error, hint = capsys.readouterr().err.splitlines()[-2:]
    assert error == "error: cannot reach a Ray cluster (127.0.0.4:1): no answer in 4 s"
    assert "`ray start`" in hint
    assert main(reshard(raw[0], tmp_path / "out", "nonsense")) == UsageError.exit_code
    assert "(nonsense): Invalid address format: nonsense" in capsys.readouterr().err


def test_a_connection_that_was_made_is_ended(raw: Raw, tmp_path: Path, cluster: str) -> None:
    import ray

    assert main(reshard(raw[0], tmp_path / "out", cluster)) == 0
    assert not ray.is_initialized()
    assert (tmp_path / "out/reshard-model_part-0.pt").exists()
