"""Reshards that stop in the middle."""

from __future__ import annotations

from pathlib import Path

import pytest

from unshard.execute import finishing, tasks
from unshard.execute.blocks import Buffers
from unshard.execute.copy import Copier, TaskResult
from unshard.execute.run import run_plan
from unshard.execute.tasks import CopyTask
from unshard.index.build import open_checkpoint
from unshard.index.checkpoint import Checkpoint
from unshard.plan.copy_plan import CopyPlan
from unshard.plan.metaseq_target import plan_metaseq
from unshard.plan.safetensors_target import plan_safetensors


class StoppedError(Exception):
    """What stands for a kill in tests that stay in one process."""


def stop_after(count: int, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Lets `count` tasks run and logs each at once; returns the numbers of those that ran."""
    ran: list[int] = []
    run = Copier.run

    def counted(copier: Copier, task: CopyTask, buffers: Buffers) -> TaskResult:
        if len(ran) >= count:
            raise StoppedError
        ran.append(task.number)
        return run(copier, task, buffers)

    monkeypatch.setattr(Copier, "run", counted)
    for name in ("BATCH_BYTES", "RECLAIM_BATCH_BYTES"):
        monkeypatch.setattr(finishing, name, 1)
    monkeypatch.setattr(tasks.task_rows, "__defaults__", (256,))
    return ran


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def plan_of(folder: Path, target: str) -> CopyPlan:
    checkpoint = open_checkpoint(folder)
    return plan_safetensors(checkpoint) if target == "hf" else plan_metaseq(checkpoint, 4)


def stop_plan(plan: CopyPlan, out: Path, count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Leaves `out` as a reshard that was killed after `count` tasks."""
    with monkeypatch.context() as patch:
        stop_after(count, patch)
        with pytest.raises(StoppedError):
            run_plan(plan, out, workers=1)


def stop_reclaim(
    checkpoint: Checkpoint, plan: CopyPlan, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Leaves `out` as a reshard with reclaim that was killed after 33 tasks."""
    with monkeypatch.context() as patch:
        stop_after(33, patch)
        with pytest.raises(StoppedError):
            run_plan(plan, out, workers=1, reclaim=checkpoint.layout.files)
