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
    for wrong in ([], ["--reclaim", "--dry-run"], ["--reclaim", "--dtype", "fp32"]):
        assert reshard(raw[0], out, *wrong) == 2
        assert "unfinished reshard of" in capsys.readouterr().err
    assert reshard(raw[0], out, "--reclaim") == 0
    assert f"fingerprint {expected}\n" in capsys.readouterr().err
    assert not any(path.exists() for path in files)
    assert {path.name for path in out.iterdir()} == {
        "config.json", "generation_config.json", "model.safetensors", "unshard.json",
    }  # fmt: skip


def test_a_source_may_be_spelled_in_another_way(
    raw: Raw, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    (raw[0] / "gpt2-vocab.json").write_text("{}")
    (raw[0] / "gpt2-merges.txt").write_text("#version: 0.2\n")
    assert reshard(raw[0], out) == 0
    written = (out / "model.safetensors").stat().st_ino
    monkeypatch.chdir(raw[0].parent)
    for spelling in (raw[0].name, f"{raw[0].name}/../{raw[0].name}", f"{raw[0].name}/*.pt"):
        assert reshard(Path(spelling), out) == 0
    assert (out / "model.safetensors").stat().st_ino == written


def test_verify_believes_parts_by_what_the_reshard_recorded(
    raw: Raw, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["reshard", str(raw[0]), str(tmp_path), "--to", "metaseq"]) == 0
    capsys.readouterr()
    assert main(["verify", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert "2 torch files are as they were written, by the CRC-32s stored" in out
    assert "the weights are those of the fingerprint in unshard.json" in out


def test_a_destination_that_is_a_file(
    raw: Raw, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    assert reshard(raw[0], tmp_path / "file") == 1
    assert f"{tmp_path / 'file'}: is a file, not a folder" in capsys.readouterr().err


def test_reclaim_without_sync_leaves_no_trace(
    raw: Raw, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert reshard(raw[0], tmp_path / "out", "--reclaim", "--no-sync") == 2
    assert "leave out --no-sync" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_ctrl_c_says_how_to_go_on(
    raw: Raw, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(copier: Copier, task: CopyTask, buffers: Buffers) -> TaskResult:
        raise KeyboardInterrupt

    monkeypatch.setattr(Copier, "run", interrupted)
    assert reshard(raw[0], tmp_path / "out") == 130
    assert "run the same command again: the reshard goes on from here" in capsys.readouterr().err
    assert reshard(raw[0], tmp_path / "out", "--overwrite") == 130
    assert "again without --overwrite: the reshard goes on" in capsys.readouterr().err
