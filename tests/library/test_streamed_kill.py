"""Killed at any moment, the same command goes on on both sides and ends with the same bytes."""

from __future__ import annotations

import hashlib
import random
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from unshard.execute.run import run_plan
from unshard.execute.task_log import ArrivalLog
from unshard.index.build import open_checkpoint
from unshard.plan.metaseq_target import plan_metaseq
from unshard.testing.object_store import FakeObjectStore
from unshard.testing.tiny_checkpoint import TINY, write_tiny_checkpoint

KILLED = """
import sys
from unshard.cli.main import main
from unshard.execute import finishing, tasks
finishing.BATCH_BYTES = finishing.RECLAIM_BATCH_BYTES = 1 << 20
tasks.task_rows.__defaults__ = (1 << 18,)
print("ready", flush=True)
sys.exit(main(sys.argv[1:]))
"""


def contents(folder: Path) -> dict[str, bytes]:
    return {
        path.name: path.read_bytes() for path in folder.iterdir() if path.name != "unshard.json"
    }


def write_manifest(folder: Path, path: Path) -> None:
    lines = (
        f"{hashlib.md5(each.read_bytes()).hexdigest()}  {each.name}\n" for each in folder.iterdir()
    )
    path.write_text("".join(lines))


class Command:
    """The command in a process of its own."""

    def __init__(self, store: FakeObjectStore, root: Path, *options: str) -> None:
        self.folders = (root / "files", root / "out")
        files, out = map(str, self.folders)
        self._arguments = [
            *(sys.executable, "-c", KILLED, "download", store.presigned_url(), files),
            *("--manifest", str(root / "files.md5"), "--reshard", out, "--to", "metaseq"),
            *("--tp", "1", "--max-rate", "3MB", *options),
        ]

    def start(self) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(self._arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        assert process.stdout is not None
        process.stdout.readline()
        return process

    def arrived(self) -> set[str]:
        """Names of the files that the reshard knows."""
        return {Path(path).name for path in ArrivalLog(self.folders[1]).read()}

    def wait_for_more(self, process: subprocess.Popen[bytes], arrived: set[str]) -> None:
        """Until another file has come, or it is over."""
        while process.poll() is None and self.arrived() == arrived:
            time.sleep(0.01)

    def clear(self) -> None:
        for folder in self.folders:
            shutil.rmtree(folder)

    def run(self) -> float:
        """Lets it end; the seconds it took."""
        started = time.monotonic()
        process = self.start()
        _, said = process.communicate()
        assert process.returncode == 0, said.decode()
        return time.monotonic() - started


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("options", [(), ("--reclaim",)])
def test_killed_at_twelve_moments_or_more(tmp_path: Path, options: tuple[str, ...]) -> None:
    config = replace(TINY, num_layers=8, hidden_size=256, embedding_size=256, ffn_dim=1024)
    objects = tmp_path / "objects"
    write_tiny_checkpoint(objects, config, tp_size=2, fsdp_size=5)
    write_manifest(objects, tmp_path / "files.md5")
    run_plan(plan_metaseq(open_checkpoint(objects), 1), tmp_path / "once")
    once = contents(tmp_path / "once")
    moments, number, went_on = random.Random(0), 0, 0
    with FakeObjectStore(objects) as store:
        command = Command(store, tmp_path, *options)
        whole_s = command.run()
        command.clear()
        while number < 12 or went_on < 3:  # on a busy machine a kill may come when all is done
            number += 1
            arrived, num_requests = command.arrived(), len(store.requests)
            process = command.start()
            if number % 2:
                command.wait_for_more(process, arrived)
                time.sleep(moments.uniform(0, 0.2))
            else:  # perhaps before a file has come
                time.sleep(moments.uniform(0, whole_s / 2))
            process.send_signal(signal.SIGKILL)
            process.communicate()
            went_on += bool(arrived)
            assert not arrived & {request.name for request in store.requests[num_requests:]}
            if process.returncode == 0:  # it was done before
                assert contents(command.folders[1]) == once
                command.clear()
        command.run()
    assert contents(command.folders[1]) == once
    assert not list((tmp_path / "files").glob("*.pt")) or not options
