"""Killed at any moment, a re-run continues and ends with the same bytes, and nothing else."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
from stopping import StoppedError, contents, plan_of, stop_after, stop_plan

from unshard.errors import IntegrityError, UsageError
from unshard.execute.blocks import Buffers
from unshard.execute.copy import Copier, TaskResult
from unshard.execute.fingerprint import fingerprint
from unshard.execute.finishing import Finishing
from unshard.execute.reclaim import unfinished
from unshard.execute.run import run_plan
from unshard.execute.task_log import TaskLog
from unshard.execute.tasks import CopyTask
from unshard.index.build import open_checkpoint
from unshard.plan.safetensors_target import plan_safetensors
from unshard.testing.tiny_checkpoint import TINY, Array, write_tiny_checkpoint

Raw = tuple[Path, dict[str, Array]]


@pytest.mark.parametrize("target", ["hf", "metaseq"])
@pytest.mark.parametrize("count", [0, 1, 7, 30])
def test_a_stopped_run_goes_on(
    raw: Raw, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, target: str, count: int
) -> None:
    plan = plan_of(raw[0], target)
    run_plan(plan, tmp_path / "once")
    stop_plan(plan, tmp_path / "again", count, monkeypatch)
    with monkeypatch.context() as patch:
        ran = stop_after(10_000, patch)
        before = set(TaskLog(tmp_path / "again").read())
        run_plan(plan, tmp_path / "again", workers=1)
        assert len(before) == count
        assert not before & set(ran)
    assert contents(tmp_path / "again") == contents(tmp_path / "once")


@pytest.mark.timeout(30)
def test_an_interrupt_under_a_lock_ends_the_run(
    raw: Raw, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which the workers want, too: raised at once, nobody would give it back."""
    lock, is_held = threading.Lock(), threading.Event()
    began: list[int] = []
    copy, add = Copier.run, Finishing.add

    def locked(copier: Copier, task: CopyTask, buffers: Buffers) -> TaskResult:
        if began:
            is_held.wait()
        began.append(task.number)
        with lock:
            return copy(copier, task, buffers)

    def interrupted(finishing: Finishing, result: TaskResult) -> None:
        if not is_held.is_set():
            lock.acquire()
            is_held.set()
            signal.raise_signal(signal.SIGINT)
            lock.release()
        add(finishing, result)

    plan = plan_of(raw[0], "hf")
    run_plan(plan, tmp_path / "once")
    with monkeypatch.context() as patch:
        patch.setattr(Copier, "run", locked)
        patch.setattr(Finishing, "add", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run_plan(plan, tmp_path / "again", workers=1)
    assert len(began) < 10
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    run_plan(plan, tmp_path / "again")
    assert contents(tmp_path / "again") == contents(tmp_path / "once")


def test_a_log_line_cut_short_is_left_out(tmp_path: Path) -> None:
    log = TaskLog(tmp_path)
    first, second = (
        TaskResult(
            CopyTask(n, "w", 0, 2, frozenset({0})),
            {"a": [(0, 4, 9)]},
            {(0, 1): [(0, 4, 9)]},
            {0: "ab"},
        )
        for n in (3, 5)
    )
    log.append([first])
    path = tmp_path / ".unshard.tasks"
    path.write_bytes(path.read_bytes() + b'[4, {"a"')
    assert log.read() == {3: first}
    log.append([second])
    assert log.read() == {3: first, 5: second}


def test_a_log_is_written_whole_or_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk takes a part of a write and says so only of the next one."""
    write = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda file, data, at: write(file, data[:9], at))
    monkeypatch.setattr(os, "write", lambda file, data: write(file, data[:9], 0))
    result = TaskResult(CopyTask(3, "w", 0, 2, frozenset({0})), {"a": [(0, 4, 9)]}, {}, {})
    TaskLog(tmp_path).append([result])
    assert TaskLog(tmp_path).read() == {3: result}


def test_lines_that_never_reached_the_disk_are_done_again(
    raw: Raw, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = plan_of(raw[0], "hf")
    run_plan(plan, tmp_path / "once")
    stop_plan(plan, tmp_path / "again", 10, monkeypatch)
    with monkeypatch.context() as patch:
        log = tmp_path / "again/.unshard.tasks"
        whole = log.read_bytes()
        log.write_bytes(whole[:300] + bytes(200) + whole[500:])
        stop_after(10_000, patch)
        run_plan(plan, tmp_path / "again", workers=1)
    assert contents(tmp_path / "again") == contents(tmp_path / "once")


def test_tasks_cut_otherwise_are_done_again(
    raw: Raw, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As by another version of unshard: the numbers in the log mean other rows."""
    plan = plan_of(raw[0], "hf")
    run_plan(plan, tmp_path / "once")
    stop_plan(plan, tmp_path / "again", 10, monkeypatch)
    run_plan(plan, tmp_path / "again")
    assert contents(tmp_path / "again") == contents(tmp_path / "once")


def test_a_lost_partial_file_is_made_again(
    raw: Raw, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = plan_of(raw[0], "metaseq")
    stop_plan(plan, tmp_path / "again", 20, monkeypatch)
    next((tmp_path / "again").glob(".reshard-model_part-1*")).unlink()
    run_plan(plan, tmp_path / "again")
    run_plan(plan, tmp_path / "once")
    assert contents(tmp_path / "again") == contents(tmp_path / "once")


def test_what_was_not_synced_is_not_believed(raw: Raw, tmp_path: Path) -> None:
    plan = plan_of(raw[0], "hf")
    run_plan(plan, tmp_path / "out", sync=False)
    weights = tmp_path / "out/model.safetensors"
    before = weights.stat().st_mtime_ns
    run_plan(plan, tmp_path / "out", sync=True)
    assert weights.stat().st_mtime_ns != before


def test_what_was_finished_without_sync_is_not_believed(
    raw: Raw, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = plan_of(raw[0], "hf")
    with monkeypatch.context() as patch:
        stop_after(10, patch)
        with pytest.raises(StoppedError):
            run_plan(plan, tmp_path / "out", workers=1)
    run_plan(plan, tmp_path / "out", sync=False)
    assert not (tmp_path / "out/.unshard.tasks").exists()
    weights = tmp_path / "out/model.safetensors"
    before = weights.stat().st_mtime_ns
    run_plan(plan, tmp_path / "out")
    assert weights.stat().st_mtime_ns != before


@pytest.mark.parametrize("count", [0, 5, 33])
def test_reclaim_survives_a_stop(
    raw: Raw, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    checkpoint = open_checkpoint(raw[0])
    expected, plan = fingerprint(checkpoint.index), plan_safetensors(checkpoint)
    run_plan(plan, tmp_path / "once")
    files = checkpoint.layout.files
    with monkeypatch.context() as patch:
        stop_after(count, patch)
        with pytest.raises(StoppedError):
            run_plan(plan, tmp_path / "out", workers=1, reclaim=files)
    with monkeypatch.context() as patch:
        left = unfinished(tmp_path / "out")
        assert left is not None
        stop_after(10_000, patch)
        run_plan(left.plan, tmp_path / "out", reclaim=left.files)
    assert not any(path.exists() for path in files)
    assert fingerprint(open_checkpoint(tmp_path / "out").index) == expected
    assert {p.name for p in (tmp_path / "out").iterdir()} == {
        p.name for p in (tmp_path / "once").iterdir()
    }


def test_reclaim_deletes_nothing_of_a_damaged_file(raw: Raw, tmp_path: Path) -> None:
    checkpoint = open_checkpoint(raw[0])
    record = checkpoint.stored[0]
    with Path(record.path).open("r+b") as file:
        file.seek(record.offset)
        file.write(b"\xff\xff")
    with pytest.raises(IntegrityError, match=r"damaged|differs"):
        run_plan(plan_safetensors(checkpoint), tmp_path / "out", reclaim=checkpoint.layout.files)
    assert Path(record.path).exists()
    with Path(record.path).open("rb") as file:
        file.seek(record.offset)
        assert file.read(2) == b"\xff\xff"


def test_reclaim_needs_a_proof(raw: Raw, tmp_path: Path) -> None:
    checkpoint = open_checkpoint(raw[0])
    for options in ({"sync": False}, {"verify": False}):
        with pytest.raises(UsageError, match="only after a synced, verified copy"):
            run_plan(
                plan_safetensors(checkpoint),
                tmp_path / "out",
                reclaim=checkpoint.layout.files,
                **options,
            )
    assert all(path.exists() for path in checkpoint.layout.files)


KILLED = """
import sys
from unshard.execute import finishing, tasks
from unshard.execute.run import run_plan
from unshard.index.build import open_checkpoint
from unshard.plan.metaseq_target import plan_metaseq
finishing.BATCH_BYTES = 1 << 20
tasks.task_rows.__defaults__ = (1 << 18,)
print("ready", flush=True)
run_plan(plan_metaseq(open_checkpoint(sys.argv[1]), 1), sys.argv[2], workers=2)
"""


@pytest.mark.slow
def test_killed_at_twenty_moments(tmp_path: Path) -> None:
    config = replace(TINY, num_layers=8, hidden_size=512, embedding_size=512, ffn_dim=2048)
    write_tiny_checkpoint(tmp_path / "raw", config, tp_size=2, fsdp_size=5)
    once, out = tmp_path / "once", tmp_path / "out"
    command = [sys.executable, "-c", KILLED, str(tmp_path / "raw")]
    process = subprocess.Popen([*command, str(once)], stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    started = time.monotonic()
    process.communicate()
    whole_s = time.monotonic() - started
    moments, went_on = random.Random(0), 0
    for _ in range(20):
        process = subprocess.Popen([*command, str(out)], stdout=subprocess.PIPE)
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(moments.uniform(0, whole_s / 2))
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
        went_on += (out / ".unshard.tasks").exists()
        if process.returncode == 0:  # it was done before
            assert contents(out) == contents(once)
            shutil.rmtree(out)
    subprocess.run([*command, str(out)], check=True, stdout=subprocess.DEVNULL)
    assert contents(out) == contents(once)
    assert went_on >= 5
