"""What a reshard keeps of itself in its folder may be damaged: it costs time or is told, and never
ends in a traceback or in other bytes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from stopping import contents, plan_of, stop_plan

from unshard.errors import DestinationError, FormatError
from unshard.execute.reclaim import unfinished
from unshard.execute.run import run_plan
from unshard.execute.task_log import ArrivalLog, TaskLog
from unshard.plan.plan_json import plan_to_json
from unshard.testing.tiny_checkpoint import Array

Raw = tuple[Path, dict[str, Array]]

ROWS = [3, "w", 0, 2, [0]]
NO_RESULTS: list[Any] = [
    None, 5, "x", [], {}, [ROWS, {}, []], [ROWS[:4], {}, [], {}], [[*ROWS[:4], 0], {}, [], {}],
    [ROWS, [], [], {}], [ROWS, {"a": 1}, [], {}], [ROWS, {"a": [[1, 2]]}, [], {}],
    [ROWS, {"a": [[1, 2, "3"]]}, [], {}], [ROWS, {}, [[0, 1]], {}], [ROWS, {}, [[[], 1, []]], {}],
    [ROWS, {}, [], {"x": "ab"}], [ROWS, {}, [], {"0": 1}], [ROWS, {}, [], None],
]  # fmt: skip


@pytest.mark.parametrize("line", [*map(json.dumps, NO_RESULTS), "[" * 100_000, "\xff"])
def test_a_line_that_is_no_task_is_left_out(tmp_path: Path, line: str) -> None:
    sound = json.dumps(
        [[5, "w", 2, 4, [0]], {"a": [[0, 4, 9]]}, [[0, 1, [[0, 4, 9]]]], {"0": "ab"}]
    )
    (tmp_path / TaskLog.name).write_text(f"{line}\n{sound}\n", "latin-1")
    assert list(TaskLog(tmp_path).read()) == [5]


@pytest.mark.parametrize(
    "line", ["5", "[]", '["a"]', '["a", 1]', '["a", 1, "2"]', "[[], 1, 2]", '["\\u0000", 1, 2]']
)
def test_a_line_that_is_no_arrival_is_left_out(tmp_path: Path, line: str) -> None:
    (tmp_path / ArrivalLog.name).write_text(f'{line}\n["b", 1, 2]\n')
    assert ArrivalLog(tmp_path).read() == {"b": [1, 2]}


@pytest.mark.parametrize(
    "damage",
    [
        {"sources": []},
        {"sources": {"/a": 1}},
        {"sources": {"/a": [1]}},
        {"sources": {"/\ud800": [1, 2]}},
        {"files": 1},
        {"files": [1]},
        {"files": ["../x"]},
        {"files": ["\ud800"]},
        {"plan": None},
    ],
)
def test_a_record_that_is_none_is_as_no_record(
    raw: Raw, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: dict[str, object]
) -> None:
    plan, out = plan_of(raw[0], "hf"), tmp_path / "out"
    run_plan(plan, tmp_path / "once")
    stop_plan(plan, out, 10, monkeypatch)
    record = out / "unshard.json"
    record.write_text(json.dumps(json.loads(record.read_text()) | damage))
    with pytest.raises(DestinationError, match="no reshard wrote it"):
        run_plan(plan, out)
    run_plan(plan, out, overwrite=True)
    assert contents(out) == contents(tmp_path / "once")


def test_a_kept_plan_that_is_none_is_told(raw: Raw, tmp_path: Path) -> None:
    plan = plan_to_json(plan_of(raw[0], "hf"))
    kept = {"plan": plan, "files": ["a"], "folder": "/"}
    for broken in (
        [], 5, {}, kept | {"plan": []}, kept | {"plan": {}}, kept | {"files": 3},
        kept | {"files": [3]}, kept | {"folder": None}, kept | {"plan": plan | {"source": 1}},
        kept | {"plan": plan | {"paths": []}}, kept | {"plan": plan | {"files": [[]]}},
        kept | {"plan": plan | {"tensors": [["w"]]}},
    ):  # fmt: skip
        (tmp_path / ".unshard.plan.json").write_text(json.dumps(broken))
        with pytest.raises(FormatError, match="is no plan of a reshard with --reclaim"):
            unfinished(tmp_path)


@pytest.mark.parametrize("pattern", ["", "*", "reshard-model_part-0-shard0.pt"])
def test_a_kept_plan_deletes_files_of_its_source_alone(
    raw: Raw, tmp_path: Path, pattern: str
) -> None:
    """Whoever is handed a folder is handed its hidden files, too."""
    (tmp_path / "mine").write_text("precious")
    plan = plan_to_json(plan_of(raw[0], "hf")) | {"source": str(raw[0] / pattern)}
    path = tmp_path / ".unshard.plan.json"
    for foreign in (tmp_path / "mine", raw[0] / ".." / "mine", Path("/etc/hostname")):
        content = {"plan": plan, "files": [str(foreign)], "folder": str(tmp_path)}
        path.write_text(json.dumps(content))
        with pytest.raises(FormatError, match=r"is to delete .*, which is not of"):
            unfinished(tmp_path)
    own = str(raw[0] / "reshard-model_part-0-shard0.pt")
    path.write_text(json.dumps({"plan": plan, "files": [own], "folder": str(tmp_path)}))
    found = unfinished(tmp_path)
    assert found is not None
    assert found.files == (own,)
