"""Boxes against numpy, and the law that a plan covers its target exactly once."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from unshard.index.build import open_checkpoint
from unshard.plan.boxes import Box
from unshard.plan.copy_plan import CopyPlan, PlannedTensor
from unshard.plan.metaseq_target import plan_metaseq
from unshard.plan.safetensors_target import plan_safetensors
from unshard.testing.tiny_checkpoint import Array

side = st.tuples(st.integers(0, 6), st.integers(0, 5))
boxes = st.lists(side, min_size=1, max_size=3).map(
    lambda sides: Box(tuple(start for start, _ in sides), tuple(size for _, size in sides))
)


def mask(box: Box) -> np.ndarray:
    found = np.zeros((12,) * len(box.sizes), bool)
    found[tuple(slice(a, b) for a, b in zip(box.offsets, box.ends, strict=True))] = True
    return found


@given(data=st.data(), left=boxes)
def test_overlap_is_numpys(data: st.DataObject, left: Box) -> None:
    sides = [data.draw(side) for _ in left.sizes]
    right = Box(tuple(start for start, _ in sides), tuple(size for _, size in sides))
    shared = left.overlap(right)
    expected = mask(left) & mask(right)
    np.testing.assert_array_equal(expected, mask(shared) if shared else np.zeros_like(expected))


def covers_once(tensor: PlannedTensor) -> bool:
    count = np.zeros(tensor.shape, int)
    for item in tensor.items:
        box = item.target_box
        count[tuple(slice(a, b) for a, b in zip(box.offsets, box.ends, strict=True))] += 1
    return bool((count == 1).all())


def test_targets_are_covered_exactly_once(raw: tuple[Path, dict[str, Array]]) -> None:
    checkpoint = open_checkpoint(raw[0])
    plans = [plan_safetensors(checkpoint), *(plan_metaseq(checkpoint, n) for n in (1, 2, 4))]
    for plan in plans:
        assert all(covers_once(tensor) for tensor in plan.tensors())


def test_the_plan_is_data(raw: tuple[Path, dict[str, Array]]) -> None:
    """It serialises, and equal plans have equal digests."""
    first: CopyPlan = plan_metaseq(open_checkpoint(raw[0]), 4)
    second: CopyPlan = plan_metaseq(open_checkpoint(raw[0]), 4)
    assert json.loads(json.dumps(first.to_json()))["files"][0]["framing"] == "torch-zip"
    assert first.digest() == second.digest()
    assert first.digest() != plan_metaseq(open_checkpoint(raw[0]), 1).digest()
    assert len(first.source_paths()) == 6
