"""What metaseq's units and tensors need to be split: heads that divide, one optimizer for all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from unshard.dtypes import FLOAT16
from unshard.errors import CheckpointError, UsageError
from unshard.formats.records import PickledObject
from unshard.index.build import open_checkpoint
from unshard.index.checkpoint import Checkpoint
from unshard.index.optimizer_state import OptimizerState, read_optimizer_state
from unshard.plan.copy_plan import TargetTensor
from unshard.plan.metaseq_units import TensorParallel
from unshard.plan.optimizer_target import optimizer_states
from unshard.plan.pickled_metadata import buffer_names
from unshard.plan.torch_archive import pickled_tensor, storage_of
from unshard.testing.tiny_checkpoint import write_tiny_checkpoint
from unshard.testing.tiny_metaseq import MetaseqForm
from unshard.testing.tiny_model import TINY


@pytest.mark.parametrize("size", [0, -1, 3, 8])
def test_parts_that_heads_cannot_be_split_over(size: int) -> None:
    with pytest.raises(UsageError) as refused:
        TensorParallel(TINY, size, fused=True)
    assert refused.value.hint == "use 1, 2, 4"


@pytest.mark.parametrize("size", [1, 2, 4])
def test_parts_that_heads_can_be_split_over(size: int) -> None:
    assert [unit.path for unit in TensorParallel(TINY, size, fused=True).units()] == [
        "", "decoder.layers.0", "decoder.layers.1",
    ]  # fmt: skip


@pytest.mark.parametrize("shape", [(), (1,), (3,), (2, 3), (3, 1), (1, 1, 4), (2, 0), (0, 3, 2)])
def test_strides_are_torchs(shape: tuple[int, ...]) -> None:
    tensor = TargetTensor("x", FLOAT16, shape, ())
    said: PickledObject = pickled_tensor(storage_of([tensor]), 0, shape)
    assert said.args[2:5] == (shape, torch.empty(shape).stride(), False)


@pytest.mark.parametrize("names", ["decoder.version", [1], ["a", None], {"a": 1}, None])
def test_names_of_buffers_that_cannot_be(names: object) -> None:
    with pytest.raises(CheckpointError, match=r"a\.pt: shard_metadata's buffer_names"):
        buffer_names("a.pt", {"buffer_names": names})


def test_names_of_buffers() -> None:
    assert buffer_names("a.pt", {}) == ()
    assert buffer_names("a.pt", {"buffer_names": ["x"]}) == ["x"]


# An optimizer's state of one unit for everything, for units of layers.


@pytest.fixture
def trained(tmp_path: Path) -> tuple[Checkpoint, OptimizerState]:
    form = MetaseqForm(wrapping=2, optimizer_state=True)  # the root, and both layers
    write_tiny_checkpoint(tmp_path, tp_size=1, fsdp_size=1, form=form)
    checkpoint = open_checkpoint(tmp_path)
    return checkpoint, read_optimizer_state(checkpoint)


def state_for_three(
    trained: tuple[Checkpoint, OptimizerState], changes: dict[str, Any], value: Any = None
) -> dict[str, Any]:
    """The target's state where the source's has `changes`, and unit 1's has another `value`."""
    checkpoint, optimizer = trained
    entries = dict(checkpoint.metadata[0].entries)
    said = entries["last_optimizer_state"] | changes
    states = {number: dict(state) for number, state in said["state"].items()}
    if value is not None:
        states[1]["step"] = value
    entries["last_optimizer_state"] = said | {"state": states}
    parallel = TensorParallel(checkpoint.config, 1, fused=True)
    [state] = optimizer_states(optimizer, entries, parallel, 0, 1)
    return state


@pytest.mark.parametrize("groups", [None, [], [{"lr": 1, "params": [0, 1]}]])
def test_the_one_group_gets_all_units(
    groups: Any, trained: tuple[Checkpoint, OptimizerState]
) -> None:
    found = state_for_three(trained, {"param_groups": groups})
    assert found["param_groups"] == (groups and [{"lr": 1, "params": [0, 1, 2]}])
    assert list(found["state"]) == [0, 1, 2]
    assert [state["step"] for state in found["state"].values()] == [7, 7, 7]


def test_groups_of_units_that_are_no_more(trained: tuple[Checkpoint, OptimizerState]) -> None:
    with pytest.raises(CheckpointError, match="has 2 groups of parameters"):
        state_for_three(trained, {"param_groups": [{"params": [0]}, {"params": [1]}]})


@pytest.mark.parametrize("step", [8, 7.5, "7"])
def test_units_that_differ(step: Any, trained: tuple[Checkpoint, OptimizerState]) -> None:
    with pytest.raises(CheckpointError, match="its units differ in more than their moments"):
        state_for_three(trained, {}, step)
