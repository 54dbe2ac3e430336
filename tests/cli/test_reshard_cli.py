"""`unshard reshard` as a person types it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from unshard.cli.main import main
from unshard.errors import UnshardError
from unshard.execute import finishing
from unshard.execute.blocks import Buffers
from unshard.execute.copy import Copier, TaskResult
from unshard.execute.fingerprint import fingerprint
from unshard.execute.tasks import CopyTask
from unshard.index.build import open_checkpoint
from unshard.testing.tiny_checkpoint import Array

Raw = tuple[Path, dict[str, Array]]


def reshard(raw: Path, out: Path, *options: str) -> int:
    return main(["reshard", str(raw), str(out), "--to", "safetensors", *options])


def test_the_fingerprint_is_said_and_recorded(
    raw: Raw, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    expected = fingerprint(open_checkpoint(raw[0]).index).model
    assert reshard(raw[0], tmp_path / "out") == 0
    assert f"fingerprint {expected}\n" in capsys.readouterr().err
    assert reshard(raw[0], tmp_path / "out", "--json") == 0
    assert json.loads(capsys.readouterr().out)["fingerprint"] == expected
    assert reshard(raw[0], tmp_path / "other", "--no-verify", "--json") == 0
    assert json.loads(capsys.readouterr().out)["fingerprint"] is None


def test_too_little_memory(raw: Raw, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert reshard(raw[0], tmp_path / "out", "--memory", "10MB") == 2
    assert "10000000 bytes of memory are too little" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_reclaim_goes_on_with_the_same_command_only(
    raw: Raw, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out, files = tmp_path / "out", list(raw[0].iterdir())
    expected = fingerprint(open_checkpoint(raw[0]).index).model
    run, ran = Copier.run, []

    def failing(copier: Copier, task: CopyTask, buffers: Buffers) -> TaskResult:
        ran.append(task.number)
        if len(ran) > 5:
            raise UnshardError("stopped")
        return run(copier, task, buffers)

    with monkeypatch.context() as patch:
        patch.setattr(finishing, "RECLAIM_BATCH_BYTES", 1)
        patch.setattr(Copier, "run", failing)
        assert reshard(raw[0], out, "--reclaim", "--workers", "1") == 1
    capsys.readouterr()
    for wrong in ([], ["--reclaim", "--dry-run"]):
        assert reshard(raw[0], out, *wrong) == 2
        assert "unfinished reshard of" in capsys.readouterr().err
    assert reshard(raw[0], out, "--reclaim") == 0
    assert f"fingerprint {expected}\n" in capsys.readouterr().err
    assert not any(path.exists() for path in files)
    assert {path.name for path in out.iterdir()} == {
        "config.json", "generation_config.json", "model.safetensors", "unshard.json",
    }  # fmt: skip
