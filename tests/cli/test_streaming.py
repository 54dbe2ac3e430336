"""`unshard download … --reshard DST` as a person types it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from unshard.cli.main import main
from unshard.testing.object_store import FakeObjectStore, Fault
from unshard.testing.tiny_checkpoint import Array

Raw = tuple[Path, dict[str, Array]]
NAME = "checkpoint_last-model_part-{part}-shard{shard}.pt"


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
    assert stream(store, tmp_path, "--to", "metaseq", "--tp", "1") == 0
    streamed = capsys.readouterr()
    assert "of disk" not in streamed.out
    assert (
        main(["reshard", str(raw[0]), str(tmp_path / "plain"), "--to", "metaseq", "--tp", "1"]) == 0
    )
    plain = capsys.readouterr()
    assert streamed.out == plain.out.replace(str(tmp_path / "plain"), str(tmp_path / "out"))
    assert plain.err.splitlines()[-1] in streamed.err
    assert stream(store, tmp_path, "--to", "metaseq", "--tp", "1", "--json") == 0
    again = json.loads(capsys.readouterr().out)
    assert len(again["download"]["kept"]) == 6
    assert again["reshard"]["fingerprint"] == plain.err.splitlines()[-1].split()[-1]


def test_a_stopped_one_is_finished_by_plain_commands(
    store: FakeObjectStore, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store.inject(Fault(status=404), file=NAME.format(part=1, shard=2), times=3)
    store.inject(Fault(status=404), file=NAME.format(part=1, shard=2), times=None)
    assert stream(store, tmp_path, "--to", "safetensors") == 1
