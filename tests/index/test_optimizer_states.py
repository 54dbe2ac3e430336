"""An optimizer's moments lie as the weights do, and are refused where they do not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from unshard.dtypes import FLOAT32
from unshard.errors import CheckpointError, UsageError
from unshard.index.build import open_checkpoint
from unshard.index.optimizer_state import OptimizerState, read_optimizer_state
from unshard.testing.tiny_checkpoint import write_tiny_checkpoint
from unshard.testing.tiny_metaseq import MetaseqForm

Edit = Callable[[Path, Callable[[dict[str, Any]], None]], None]
Grid = tuple[int, int]


def opened(folder: Path) -> OptimizerState:
    return read_optimizer_state(open_checkpoint(folder))


@pytest.mark.parametrize(
    ("grid", "wrapping", "fused", "num_units"),
    [((1, 1), 1, True, 3), ((2, 3), 2, False, 2), ((4, 2), "root", True, 1)],
)
def test_each_element_goes_with_its_weight(
    grid: Grid, wrapping: Any, fused: bool, num_units: int, tmp_path: Path, read_tensor: Any
) -> None:
    form = MetaseqForm(FLOAT32, fused, wrapping, optimizer_state=True)
    model = write_tiny_checkpoint(tmp_path, tp_size=grid[0], fsdp_size=grid[1], form=form)
    del model["decoder.version"]
    state = opened(tmp_path)
    assert state.num_units == num_units
    assert state.moments.keys() == {"exp_avg", "exp_avg_sq"}
    for name, values in model.items():
        half = values / 2
        assert np.array_equal(read_tensor(state.moments["exp_avg"][name]), half), name
        assert np.array_equal(read_tensor(state.moments["exp_avg_sq"][name]), half * half), name
    assert state.moments["exp_avg"].keys() == model.keys()


def state_of(content: dict[str, Any], unit: int) -> dict[str, Any]:
    return content["last_optimizer_state"]["state"][unit]


def lose(content: dict[str, Any]) -> None:
    del state_of(content, 1)["exp_avg"]


def number(content: dict[str, Any]) -> None:
    states = content["last_optimizer_state"]["state"]
    states[3] = states.pop(2)


def shorten(content: dict[str, Any]) -> None:
    state_of(content, 1)["exp_avg"] = state_of(content, 0)["exp_avg"]


@pytest.mark.parametrize(
    ("change", "where", "problem"),
    [
        (lose, "*part-1-*", "the parts' optimizer states differ"),
        (lose, "*-shard1.pt", "its optimizer state holds other values than .*shard0"),
        (lose, "*", r"has no exp_avg of decoder\.layers\.0"),
        (number, "*", "optimizer state 3 is of no parameter"),
        (shorten, "*", r"exp_avg/: has \d+ elements for a parameter that has \d+"),
    ],
)
def test_states_that_do_not_fit(
    change: Any, where: str, problem: str, tmp_path: Path, edit: Edit
) -> None:
    write_tiny_checkpoint(tmp_path, tp_size=2, fsdp_size=2, form=MetaseqForm(optimizer_state=True))
    for path in tmp_path.glob(where):
        edit(path, change)
    with pytest.raises(CheckpointError, match=problem):
        opened(tmp_path)


def test_files_without_one(tmp_path: Path) -> None:
    write_tiny_checkpoint(tmp_path)
    with pytest.raises(UsageError, match="holds no optimizer state"):
        opened(tmp_path)
