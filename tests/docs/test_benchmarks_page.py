"""docs/benchmarks.md is made of the results, and the results are those of the records.

UNSHARD_UPDATE_DOCS=1 pytest -n 0 tests/docs/test_benchmarks_page.py
"""

from __future__ import annotations

import json
import re
import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
TOOL = runpy.run_path(str(ROOT / "tools/benchmarks_page.py"))
RESULTS: dict[str, Any] = TOOL["results"]()
LESS_IS_BETTER = {"s", "ms", "MB", "CPU s per GB"}
MORE_IS_BETTER = {"GB/s", "tokens/s", "tokens per CPU s"}


def test_the_page_is_the_results(held: Callable[[Path, str], None]) -> None:
    held(ROOT / "docs/benchmarks.md", TOOL["page"]())


@pytest.mark.parametrize("stem", RESULTS)
def test_the_drawing_is_the_result(stem: str, held: Callable[[Path, str], None]) -> None:
    held(ROOT / f"docs/benchmarks/{stem}.svg", TOOL["drawing"](RESULTS[stem]))


def test_no_drawing_is_left_over() -> None:
    drawn = {path.stem for path in (ROOT / "docs/benchmarks").glob("*.svg")}
    assert drawn == RESULTS.keys()


@pytest.mark.parametrize("stem", RESULTS)
def test_every_figure_is_its_records(stem: str) -> None:
    result = RESULTS[stem]
    assert re.fullmatch(r"20\d\d-\d\d-\d\d", result["date"])
    assert not result["program"] or (ROOT / result["program"]).exists()
    told = {float(n) for n in re.findall(r"\d+(?:\.\d+)?", _record(result["record"]))}
    for row in result["rows"]:
        if row["ours"] is None:
            assert row["ratio"] in told, row
            continue
        assert {row["ours"], row["peer"]} <= told, row
        pair = row["ours"], row["peer"]
        assert row["unit"] in LESS_IS_BETTER | MORE_IS_BETTER
        worse, better = pair if row["unit"] in LESS_IS_BETTER else pair[::-1]
        assert row["ratio"] == pytest.approx(better / worse, rel=0.02), row


def _record(path: str) -> str:
    return (ROOT / "docs" / path).read_text()


def test_what_is_owed_names_programs_that_there_are() -> None:
    for each in json.loads((ROOT / "benchmarks/owed.json").read_text()):
        assert not each["program"] or (ROOT / each["program"]).exists()
