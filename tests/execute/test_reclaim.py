"""`reclaim` never takes the only copy of anything."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from stopping import StoppedError, contents, stop_after, stop_reclaim

from unshard.errors import CheckpointError, DestinationError, FormatError, UnshardError, UsageError
from unshard.execute import tasks
from unshard.execute.fingerprint import fingerprint
from unshard.execute.journal import recorded_fingerprint
from unshard.execute.run import run_plan
from unshard.execute.task_log import TaskLog
from unshard.execute.tasks import placements_of, tasks_of
from unshard.index.build import open_checkpoint
from unshard.plan.metaseq_target import plan_metaseq
from unshard.plan.safetensors_target import plan_safetensors
from unshard.testing.tiny_checkpoint import Array
from unshard.testing.tiny_hugging_face import write_tiny_hugging_face

Raw = tuple[Path, dict[str, Array]]


def test_overwrite_spares_what_may_be_the_only_copy(
    raw: Raw, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = open_checkpoint(raw[0])
    plan, other = plan_safetensors(checkpoint), plan_metaseq(checkpoint, 1)
    stop_reclaim(checkpoint, plan, tmp_path / "out", monkeypatch)
    before = contents(tmp_path / "out")
    for options in ({"reclaim": checkpoint.layout.files}, {}):
        for each in (plan, other):
            with pytest.raises(DestinationError, match="may be the only copy"):
                run_plan(each, tmp_path / "out", overwrite=True, **options)
    assert contents(tmp_path / "out") == before


@pytest.mark.parametrize("lost", ["unshard.json", ".unshard.tasks", ".model.safetensors.partial"])
def test_what_was_lost_is_not_made_of_holes(
    raw: Raw, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lost: str
) -> None:
    checkpoint = open_checkpoint(raw[0])
    plan = plan_safetensors(checkpoint)
    stop_reclaim(checkpoint, plan, tmp_path / "out", monkeypatch)
    (tmp_path / "out" / lost).unlink()
    before = contents(tmp_path / "out")
    with pytest.raises(DestinationError):
        run_plan(plan, tmp_path / "out", reclaim=checkpoint.layout.files)
    assert contents(tmp_path / "out") == before


@pytest.mark.parametrize("kind", ["hard", "symbolic"])
def test_other_names_of_a_file_keep_their_bytes(raw: Raw, tmp_path: Path, kind: str) -> None:
    links = tmp_path / "links"
    shutil.copytree(raw[0], links, copy_function=os.link if kind == "hard" else os.symlink)
    before = contents(raw[0])
    checkpoint = open_checkpoint(links)
    with pytest.raises(UsageError, match=f"{kind}.*its other name"):
        run_plan(plan_safetensors(checkpoint), tmp_path / "out", reclaim=checkpoint.layout.files)
    assert contents(raw[0]) == before


def test_a_source_without_checksums_that_changes_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_tiny_hugging_face(tmp_path / "hf")
    checkpoint = open_checkpoint(tmp_path / "hf")
    plan = plan_metaseq(checkpoint, 1)
    stop_reclaim(checkpoint, plan, tmp_path / "out", monkeypatch)
    [file] = checkpoint.layout.files
    file.write_bytes(file.read_bytes()[:-1] + b"\x7f")
    with pytest.raises(DestinationError, match="have changed"):
        run_plan(plan, tmp_path / "out", reclaim=checkpoint.layout.files)
    assert file.exists()


def test_what_was_not_proved_is_proved_before_its_source_goes(
    raw: Raw, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = open_checkpoint(raw[0])
    plan, record = plan_safetensors(checkpoint), checkpoint.stored[3]
    with Path(record.path).open("r+b") as file:
        file.seek(record.offset)
        file.write(b"\xff\xff")
    with monkeypatch.context() as patch:
        patch.setattr(tasks.task_rows, "__defaults__", (256,))
        count = len(tasks_of(plan, placements_of(plan)))
        stop_after(count - 1, patch)
        with pytest.raises(StoppedError):
            run_plan(plan, tmp_path / "out", workers=1, verify=False)
    with monkeypatch.context() as patch:
        stop_after(10_000, patch)
        with pytest.raises((CheckpointError, FormatError)):
            run_plan(plan, tmp_path / "out", reclaim=checkpoint.layout.files)
    assert Path(record.path).exists()


def test_no_file_is_named_before_its_tasks_are_logged(
    raw: Raw, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = open_checkpoint(raw[0])
    plan, expected = plan_metaseq(checkpoint, 4), fingerprint(checkpoint.index)

    def stop(*_arguments: object) -> None:
        raise StoppedError

    with monkeypatch.context() as patch:
        patch.setattr(TaskLog, "append", stop)
        with pytest.raises(StoppedError):
            run_plan(plan, tmp_path / "out", reclaim=checkpoint.layout.files)
    run_plan(plan, tmp_path / "out", reclaim=checkpoint.layout.files)
    assert recorded_fingerprint(tmp_path / "out") == expected.model
    assert not any(path.exists() for path in checkpoint.layout.files)


def test_nothing_is_believed_after_a_failed_sync(
    raw: Raw, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Linux reports a failed sync once; of the same file, the next one succeeds."""
    checkpoint = open_checkpoint(raw[0])
    before = contents(raw[0])
    sync, count = os.fdatasync, 0

    def failing(file: int) -> None:
        nonlocal count
        count += 1
        if count == 1:
            raise OSError(5, "Input/output error")
        sync(file)

    with monkeypatch.context() as patch:
        stop_after(10_000, patch)
        patch.setattr(os, "fdatasync", failing)
        with pytest.raises((OSError, UnshardError)):
            run_plan(
                plan_safetensors(checkpoint),
                tmp_path / "out",
                workers=1,
                reclaim=checkpoint.layout.files,
            )
    assert not TaskLog(tmp_path / "out").read()
    assert not (tmp_path / "out/model.safetensors").exists()
    assert contents(raw[0]) == before
