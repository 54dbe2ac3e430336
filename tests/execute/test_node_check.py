"""A machine that does not have the same unshard or the same files is told apart."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from unshard import __version__
from unshard.execute.copy import Copier
from unshard.execute.node_check import Expected, expected_of, problem_here
from unshard.execute.tasks import placements_of, tasks_of
from unshard.index.build import open_checkpoint
from unshard.plan.metaseq_target import plan_metaseq
from unshard.progress import Silent
from unshard.testing.tiny_checkpoint import Array

Raw = tuple[Path, dict[str, Array]]


@pytest.fixture
def expected(raw: Raw, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Expected:
    """What a reshard of `raw` into `out` needs, both as relative paths."""
    monkeypatch.chdir(tmp_path)
    plan = plan_metaseq(open_checkpoint("raw"))
    placements = placements_of(plan)
    paths = [f"out/{file.name}" for file in plan.files]
    Path("out").mkdir()
    for path in paths:
        Path(path).write_bytes(b"")
    copier = Copier(plan, placements, paths, Silent(), closed=frozenset({1}))
    return expected_of(copier, tasks_of(plan, placements))


def test_what_tasks_need(expected: Expected, raw: Raw, tmp_path: Path) -> None:
    """Not the output file that is whole, nor the one that no task writes to."""
    assert expected.folder == str(tmp_path)
    assert len(expected.sources) == len(list(raw[0].iterdir()))
    assert list(expected.outputs) == ["out/reshard-model_part-0.pt"]


def test_paths_mean_the_same_from_anywhere(
    expected: Expected, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir("/")
    assert problem_here(expected) is None
    assert Path.cwd() == Path("/")


def test_what_differs_is_named(expected: Expected, tmp_path: Path) -> None:
    source, output = next(iter(expected.sources)), next(iter(expected.outputs))
    other = replace(expected, version="9.9")
    assert problem_here(other) == f"has unshard {__version__}, not 9.9"
    other = replace(expected, folder="/nowhere")
    assert problem_here(other) == "does not see /nowhere (No such file or directory)"
    other = replace(expected, sources={"raw/missing.pt": (1, 0)})
    assert problem_here(other) == "does not see raw/missing.pt (No such file or directory)"
    os.truncate(source, 10)
    problem = problem_here(expected)
    assert problem == f"sees another {source}: 10 bytes, not {expected.sources[source][0]}"
    other = replace(expected, sources={})
    assert problem_here(other) is None
    os.utime(output, (0, 0))
    assert problem_here(other) == f"sees another {output} than the one to write to"
