"""The laws of plans: a target is covered exactly once, and a plan is data."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from unshard.errors import CheckpointError
from unshard.index.build import open_checkpoint
from unshard.plan.copy_plan import Box, CopyPlan, TargetTensor
from unshard.plan.metaseq_target import plan_metaseq
from unshard.plan.plan_json import plan_digest, plan_from_json, plan_to_json
from unshard.plan.safetensors_target import plan_safetensors
from unshard.testing.tiny_checkpoint import Array


def covers_once(plan: CopyPlan, target: TargetTensor) -> bool:
    count = np.zeros(target.shape, int)
    for region in target.regions:
        box = Box(region.at, region.box.sizes)
        count[tuple(slice(a, b) for a, b in zip(box.offsets, box.ends, strict=True))] += 1
        shape = plan.sources[region.source].shape
        assert all(end <= size for end, size in zip(region.box.ends, shape, strict=True))
    return bool((count == 1).all())


def test_targets_are_covered_exactly_once(raw: tuple[Path, dict[str, Array]]) -> None:
    checkpoint = open_checkpoint(raw[0])
    plans = [plan_safetensors(checkpoint), *(plan_metaseq(checkpoint, n) for n in (1, 2, 4))]
    for plan in plans:
        plan.check()
        assert all(covers_once(plan, target) for target in plan.targets())


def test_a_target_that_many_files_share_is_one(raw: tuple[Path, dict[str, Array]]) -> None:
    plan = plan_metaseq(open_checkpoint(raw[0]), 2, fsdp_size=3)
    spans = [span for file in plan.files for record in file.records for span in record.spans]
    targets = list(plan.targets())
    assert len({id(each) for each in targets}) == len(targets) < len(spans)


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
