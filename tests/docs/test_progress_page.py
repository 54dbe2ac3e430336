"""docs/progress.md: its commands run, and its tables and examples are what they write."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from unshard.cli.main import main
from unshard.testing.object_store import FakeObjectStore

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/progress.md").read_text()
DEMO_MODEL = ROOT / "src/unshard/demo_model"


def test_its_commands_write_what_it_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("md5sum_shards.csv").write_bytes((DEMO_MODEL / "md5sum_shards.csv").read_bytes())
    lines = re.findall(r"^\$ unshard (.*) 2> events.jsonl$", PAGE, re.MULTILINE)
    works, files = [], []
    with FakeObjectStore(DEMO_MODEL) as store:
        for line in lines:
            assert main(shlex.split(line.replace("$URL", store.presigned_url()))) == 0
            *events, end = read(capsys.readouterr().err)
            assert end["event"] == "end"
            for event in events:
                assert_documented(event)
            works.append({event["what"] for event in events if event["event"] == "start"})
            told = {event["name"] for event in events if event["event"] == "file"}
            last = [event for event in events if "files" in event][-1]
            files.append(len(told) == last["files"] == last["total_files"] > 0)
    assert works == [{"download"}, {"verify"}, {"reshard"}]
    assert files == [True, False, True]  # what download verified, verify need not read again


def test_its_examples_have_all_fields() -> None:
    [text] = re.findall(r"```json\n(.*?)```", PAGE, re.DOTALL)
    for event in read(text):
        assert_documented(event)


def read(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def assert_documented(event: dict[str, Any]) -> None:
    """All fields that the page's tables list for this kind of event, in their order."""
    own = re.search(rf"^\| `{event['event']}` \|.*\|(.*)\|$", PAGE, re.MULTILINE)
    assert own, event
    table = PAGE[PAGE.index("| Field of `progress`") :]
    of_progress = "".join(re.findall(r"^\|([ `a-z_,]*)\|", table, re.MULTILINE))
    documented = of_progress if event["event"] in ("start", "progress") else own[1]
    assert list(event) == ["event", *re.findall(r"`(\w+)`", documented)], event
