"""Boxes against numpy, and the law that a plan covers its target exactly once."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from unshard.errors import CheckpointError
from unshard.index.build import open_checkpoint
from unshard.plan.boxes import Box, whole
from unshard.plan.copy_plan import CopyPlan, TargetTensor
from unshard.plan.metaseq_target import plan_metaseq
from unshard.plan.plan_json import plan_digest, plan_from_json, plan_to_json
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


def covers_once(plan: CopyPlan, target: TargetTensor) -> bool:
    count = np.zeros(target.shape, int)
    for region in target.regions:
        box = Box(region.at, region.box.sizes)
        count[tuple(slice(a, b) for a, b in zip(box.offsets, box.ends, strict=True))] += 1
        assert region.box.overlap(whole(plan.sources[region.source].shape)) == region.box
    return bool((count == 1).all())


def test_targets_are_covered_exactly_once(raw: tuple[Path, dict[str, Array]]) -> None:
    checkpoint = open_checkpoint(raw[0])
    plans = [plan_safetensors(checkpoint), *(plan_metaseq(checkpoint, n) for n in (1, 2, 4))]
    for plan in plans:
        plan.check()
        assert all(covers_once(plan, target) for target in plan.targets())


def test_a_plan_that_loses_elements_is_refused(raw: tuple[Path, dict[str, Array]]) -> None:
    plan = plan_safetensors(open_checkpoint(raw[0]))
    first, *others = plan.files
    [record] = first.records
    lost = replace(first, records=(replace(record, spans=record.spans[1:]),))
    with pytest.raises(CheckpointError, match=r"embed_tokens\.weight: only 0 of its elements"):
        replace(plan, files=(lost, *others)).check()


def test_the_plan_is_data(raw: tuple[Path, dict[str, Array]]) -> None:
    """It survives JSON, and equal plans have equal digests."""
    first, second = (plan_metaseq(open_checkpoint(raw[0]), 4) for _ in range(2))
    again = plan_from_json(json.loads(json.dumps(plan_to_json(first))))
    assert again.sources == first.sources
    assert again.stored == first.stored
    assert plan_digest(again) == plan_digest(first) == plan_digest(second)
    assert plan_digest(first) != plan_digest(plan_metaseq(open_checkpoint(raw[0]), 1))
    assert len(first.source_paths()) == 6
