"""The laws of plans: a target is covered exactly once, and a plan is data."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from unshard.errors import CheckpointError
from unshard.index.build import open_checkpoint
from unshard.plan.copy_plan import Box, CopyPlan, Region, TargetTensor
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


def test_records_lie_behind_each_other(raw: tuple[Path, dict[str, Array]]) -> None:
    """Shards of padding alone, too: no byte of a file belongs to two, and none is past its end."""
    checkpoint = open_checkpoint(raw[0])
    for plan in (plan_safetensors(checkpoint), plan_metaseq(checkpoint, 4, fsdp_size=31)):
        for file in plan.files:
            end = 0
            for record in file.records:
                assert end <= record.offset
                assert all(0 <= span.start < span.stop for span in record.spans)
                end = record.offset + record.num_bytes
            assert end == file.num_bytes if file.framing == "plain" else end < file.num_bytes
        assert plan.num_bytes == sum(file.num_bytes for file in plan.files)


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


def narrow(region: Region) -> Region:
    rows, *others = region.box.sizes
    sizes = (rows, *(size - 1 for size in others))
    return replace(region, box=Box(region.box.offsets, sizes))


BROKEN: dict[str, tuple[Callable[[TargetTensor], TargetTensor], str]] = {
    "twice": (lambda target: replace(target, regions=target.regions * 2), "1792 of its 896"),
    "not at all": (lambda target: replace(target, regions=()), "0 of its 896 elements are stored"),
    "cut": (
        lambda target: replace(target, regions=tuple(map(narrow, target.regions))),
        "cuts through its rows",
    ),
}


@pytest.mark.parametrize("fault", BROKEN)
def test_a_target_that_is_not_covered_once_is_refused(
    fault: str, raw: tuple[Path, dict[str, Array]]
) -> None:
    change, message = BROKEN[fault]
    plan = plan_safetensors(open_checkpoint(raw[0]))
    first, *others = plan.files
    [record] = first.records
    span, *rest = record.spans
    broken = replace(record, spans=(replace(span, tensor=change(span.tensor)), *rest))
    with pytest.raises(CheckpointError, match=message):
        replace(plan, files=(replace(first, records=(broken,)), *others)).check()


def test_a_plan_says_what_it_makes(raw: tuple[Path, dict[str, Array]]) -> None:
    checkpoint = open_checkpoint(raw[0])
    flat = plan_metaseq(checkpoint, 4, fsdp_size=3)
    assert flat.target == "4 metaseq parts x 3 FSDP shards of flat parameters"
    assert plan_metaseq(checkpoint, 2).target == "2 consolidated metaseq parts"


def test_the_plan_is_data(raw: tuple[Path, dict[str, Array]]) -> None:
    """It survives JSON, and equal plans have equal digests."""
    first, second = (plan_metaseq(open_checkpoint(raw[0]), 4) for _ in range(2))
    again = plan_from_json(json.loads(json.dumps(plan_to_json(first))))
    assert again.sources == first.sources
    assert again.stored == first.stored
    assert plan_digest(again) == plan_digest(first) == plan_digest(second)
    assert plan_digest(first) != plan_digest(plan_metaseq(open_checkpoint(raw[0]), 1))
    assert len(first.source_paths()) == 6
