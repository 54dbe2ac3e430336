"""`--events`: every line of stderr is one JSON object, and the last one says how it ended."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.cli.watched_work import WatchedWork

from unshard.cli.events import SECONDS_BETWEEN_EVENTS, EventProgress
from unshard.cli.main import main
from unshard.testing.object_store import FakeObjectStore, Fault

MB = 10**6
CONTENTS = {f"reshard-model_part-{i}.pt": b"PK%d" % i * 1000 for i in range(3)}


def events_of(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def test_progress_is_told_twice_a_second_at_most_and_at_the_end() -> None:
    work, stream = WatchedWork(num_files=8), io.StringIO()
    progress = EventProgress(stream, clock=work.clock)
    progress.start("download", 100 * MB, work.files)
    work.connect(0)
    work.connect(1, is_check=True)
    for tenth in range(1, 101):
        work.now = tenth / 10
        progress.advance(work.receive(MB // 2))
        progress.start("download", 100 * MB + tenth, work.files)  # a better estimate
    progress.advance(work.receive(MB))
    work.num_whole = 5
    progress.close()
    progress.close()
    start, *told, last = events_of(stream.getvalue())
    assert (start["event"], start["eta_s"], start["files"]) == ("start", None, 0)
    assert {each["event"] for each in told} == {"progress"}
    assert len(told) == 10 / SECONDS_BETWEEN_EVENTS
    assert last == {
        "event": "progress", "what": "download", "bytes": 51 * MB, "total_bytes": 100 * MB + 100,
        "rate": pytest.approx(5 * MB, rel=0.01), "eta_s": 10, "files": 5, "total_files": 8,
        "connections": 1, "checks": 1,
    }  # fmt: skip


def test_each_piece_of_work_is_told_to_its_end() -> None:
    work, stream = WatchedWork(), io.StringIO()
    progress = EventProgress(stream, clock=work.clock)
    progress.start("verify", 30)
    progress.advance(30)
    progress.start("fingerprint", 50)
    progress.close()
    told = [(each["event"], each["what"], each["bytes"]) for each in events_of(stream.getvalue())]
    assert told == [("start", "verify", 0), ("progress", "verify", 30), ("start", "fingerprint", 0)]


def test_text_is_one_line_whatever_it_holds() -> None:
    stream = io.StringIO()
    EventProgress(stream).note("a\nb\x1b[2J\u2028\ud800")
    [line] = stream.getvalue().splitlines()
    assert line.isascii()
    assert json.loads(line) == {"event": "note", "text": "a\nb\x1b[2J\u2028\ud800"}


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeObjectStore]:
    (tmp_path / "objects").mkdir()
    rows = [f"{name},{hashlib.md5(content).hexdigest()}" for name, content in CONTENTS.items()]
    (tmp_path / "md5sum.csv").write_text("\n".join(["shard,md5sum", *rows]))
    monkeypatch.chdir(tmp_path)
    with FakeObjectStore(tmp_path / "objects") as store:
        for name, content in CONTENTS.items():
            store.put(name, content)
        monkeypatch.setenv("UNSHARD_URL", store.presigned_url())
        yield store


DOWNLOAD = ["download", "target", "--manifest", "md5sum.csv", "--events"]


@pytest.mark.usefixtures("store")
def test_a_download_in_events(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*DOWNLOAD, "--json"]) == 0
    captured = capsys.readouterr()
    assert sorted(json.loads(captured.out)["fetched"]) == sorted(CONTENTS)
    first, *others, last = events_of(captured.err)
    assert (first["event"], first["what"], first["total_files"]) == ("start", "download", 3)
    assert {each["name"] for each in others if each["event"] == "file"} == set(CONTENTS)
    told = [each for each in others if each["event"] == "progress"][-1]
    assert told["bytes"] == told["total_bytes"] == sum(map(len, CONTENTS.values()))
    assert (told["files"], told["connections"]) == (3, 0)
    assert last == {"event": "end", "exit_code": 0}

    assert main(DOWNLOAD) == 0
    captured = capsys.readouterr()
    assert "all 3 files are here" in captured.out
    assert events_of(captured.err) == [{"event": "end", "exit_code": 0}]


def test_an_error_is_the_last_event_without_the_query(
    store: FakeObjectStore, capsys: pytest.CaptureFixture[str]
) -> None:
    store.inject(Fault(status=403), times=None)
    assert main(DOWNLOAD) == 4
    captured = capsys.readouterr()
    last = events_of(captured.err)[-1]
    assert (last["event"], last["exit_code"]) == ("error", 4)
    assert "the same command" in last["hint"]
    assert captured.out == ""
    assert "Signature" not in captured.err


def test_what_is_amiss_before_the_work_is_told_too(
    store: FakeObjectStore, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["download", "target", "--max-rate", "much", "--events"]) == 2
    assert main(["download", "target", "--manifest", "none.csv", "--events"]) == 2
    errors = events_of(capsys.readouterr().err)
    assert [each["exit_code"] for each in errors] == [2, 2]
    assert "'much' is no size" in errors[0]["message"]
    for command in ("verify", "reshard"):
        more = ["x", "--to", "safetensors"] if command == "reshard" else []
        assert main([command, "nowhere", *more, "--events"]) != 0
        assert [each["event"] for each in events_of(capsys.readouterr().err)] == ["error"]


@pytest.mark.usefixtures("store")
def test_ctrl_c_is_an_event(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*_arguments: object, **_options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("unshard.cli.download.download", interrupted)
    assert main(DOWNLOAD) == 130
    error = {"event": "error", "message": "interrupted", "hint": None, "exit_code": 130}
    assert events_of(capsys.readouterr().err) == [error]
