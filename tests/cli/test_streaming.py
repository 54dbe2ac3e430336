"""`unshard download … --reshard DST` as a person types it."""

from __future__ import annotations

import json
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from unshard.cli.main import main
from unshard.execute import finishing
from unshard.execute.blocks import Buffers
from unshard.execute.copy import Copier, TaskResult
from unshard.execute.tasks import CopyTask
from unshard.testing.object_store import FakeObjectStore, Fault
from unshard.testing.tiny_checkpoint import Array

Raw = tuple[Path, dict[str, Array]]
NAME = "checkpoint_last-model_part-{part}-shard{shard}.pt"
LAST = NAME.format(part=1, shard=2)


@pytest.fixture
def store(raw: Raw) -> Iterator[FakeObjectStore]:
    with FakeObjectStore(raw[0]) as store:
        yield store


def stream(store: FakeObjectStore, folder: Path, *options: str) -> int:
    url, directory, out = store.presigned_url(NAME), str(folder / "files"), str(folder / "out")
    counts = ("--parts", "2", "--shards", "3")
    return main(["download", url, directory, *counts, "--reshard", out, *options])


def test_it_prints_what_a_reshard_prints(
    store: FakeObjectStore, raw: Raw, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    to = ("--to", "metaseq", "--tp", "1")
    assert stream(store, tmp_path, *to) == 0
    streamed = capsys.readouterr()
    assert f"no tokenizer beside {tmp_path / 'files'}: " in streamed.err
    assert main(["reshard", str(raw[0]), str(tmp_path / "plain"), *to]) == 0
    plain = capsys.readouterr()
    assert streamed.out == plain.out.replace(str(tmp_path / "plain"), str(tmp_path / "out"))
    fingerprint = plain.err.splitlines()[-1]
    assert fingerprint.startswith("fingerprint ")
    assert fingerprint in streamed.err
    assert "needs about" in streamed.err
    assert "6 of 6 files fetched; sizes checked, no digests to verify (" in streamed.err
    assert "Signature" not in streamed.err + streamed.out
    assert stream(store, tmp_path, *to, "--json") == 0
    again = json.loads(capsys.readouterr().out)
    assert len(again["download"]["kept"]) == 6
    assert again["download"]["tokenizer"] is None
    assert "\n".join(again["reshard"]["files"]) + "\n" == streamed.out
    assert f"fingerprint {again['reshard']['fingerprint']}" == fingerprint


def test_a_stopped_one_is_finished_by_plain_commands(
    store: FakeObjectStore, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store.inject(Fault(status=404), file=LAST, times=None)
    assert stream(store, tmp_path, "--to", "safetensors") == 1
    assert f"{LAST}: " in capsys.readouterr().err
    store.heal()
    counts = ["--parts", "2", "--shards", "3"]
    files, out = str(tmp_path / "files"), str(tmp_path / "out")
    assert main(["download", store.presigned_url(NAME), files, *counts]) == 0
    assert main(["reshard", files, out, "--to", "safetensors"]) == 0


def test_only_the_same_command_goes_on_with_reclaim(
    store: FakeObjectStore,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run, ran = Copier.run, []

    def interrupting(copier: Copier, task: CopyTask, buffers: Buffers) -> TaskResult:
        ran.append(task.number)
        if len(ran) == 9:
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
        return run(copier, task, buffers)

    with monkeypatch.context() as patch:
        patch.setattr(finishing, "RECLAIM_BATCH_BYTES", 1)
        patch.setattr(Copier, "run", interrupting)
        assert stream(store, tmp_path, "--to", "safetensors", "--reclaim") == 130
    assert stream(store, tmp_path, "--to", "safetensors") == 2
    assert "unfinished reshard of" in capsys.readouterr().err
    assert stream(store, tmp_path, "--to", "safetensors", "--reclaim") == 0
    assert "goes on with the reshard that was begun here" in capsys.readouterr().err
    assert not list((tmp_path / "files").glob("*.pt"))
    assert main(["inspect", str(tmp_path / "out")]) == 0


def test_when_all_is_done_a_dead_link_does(
    store: FakeObjectStore, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert stream(store, tmp_path, "--to", "safetensors", "--reclaim", "--json") == 0
    first = json.loads(capsys.readouterr().out)
    store.inject(Fault(status=403, code="RequestExpired"), times=None)
    assert stream(store, tmp_path, "--to", "safetensors", "--reclaim", "--json") == 0
    again = capsys.readouterr()
    assert json.loads(again.out) == first | {"download": None}
    assert "resharded before, and then deleted" in again.err
    assert stream(store, tmp_path, "--to", "metaseq", "--reclaim") == 4
    assert stream(store, tmp_path, "--to", "safetensors", "--reclaim", "--overwrite") == 4


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--to", "metaseq"], "--to goes with --reshard"),
        (["--reclaim"], "--reclaim goes with --reshard"),
        (["--no-verify"], "--verify goes with --reshard"),
        (["--reshard", "out"], "--reshard needs --to"),
        (["--reshard", "out", "--to", "safetensors", "--tp", "1"], "--tp goes with --to metaseq"),
        (["--reshard", "files", "--to", "metaseq"], "is the folder of the download"),
        (["--reshard", "out", "--to", "metaseq", "--reclaim", "--no-sync"], "leave out --no-sync"),
    ],
)
def test_what_makes_no_sense_is_refused_before_anything_is_fetched(
    store: FakeObjectStore,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    options: list[str],
    words: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    counts = ["--parts", "2", "--shards", "3"]
    assert main(["download", store.presigned_url(NAME), "files", *counts, *options]) == 2
    assert words in capsys.readouterr().err
    assert not list(tmp_path.glob("files/*.pt"))


def test_a_target_that_is_impossible_is_told_before_anything_is_fetched(
    store: FakeObjectStore, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert stream(store, tmp_path, "--to", "metaseq", "--tp", "7") != 0
    assert "7" in capsys.readouterr().err
    assert not list(tmp_path.glob("files/*.pt"))


def test_a_link_that_dies_while_headers_are_read_is_renewed(
    store: FakeObjectStore,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "link.txt").write_text(store.presigned_url(NAME))
    store.inject(Fault(status=403))
    command = ["download", "files", "--url-command", "cat link.txt", "--parts", "2"]
    layout = ["--shards", "3", "--reshard", "out", "--to", "safetensors"]
    assert main([*command, *layout]) == 0
    assert "going on with a fresh link" in capsys.readouterr().err
