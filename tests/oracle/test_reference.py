"""Any metaseq layout to any other, against the original scripts' inputs and outputs."""

from __future__ import annotations

import csv
import hashlib
import zipfile
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from unshard.execute.blocks import Buffers, stream
from unshard.execute.reader import Reader
from unshard.execute.run import run_plan
from unshard.index.build import open_checkpoint
from unshard.index.checkpoint import Checkpoint
from unshard.plan.metaseq_target import plan_metaseq

PRESETS = (
    "args", "base", "cfgdict", "dc", "fp32", "fsdp1", "np", "odd", "opt", "optt", "p350", "sep",
    "size", "tp1", "tp3", "tp4", "untied",
)  # fmt: skip

REFERENCE_IS_WRONG = {
    "p350": "reshard_mp silently drops project_in_dim and project_out_dim",
    "untied": "reshard_mp takes part 0 of an output projection that is split by rows",
}

pytestmark = pytest.mark.oracle


@pytest.fixture(scope="module")
def digests(reference: Path) -> dict[str, str]:
    with (reference / "reference-torch1.13.tsv").open() as table:
        return {row["path"]: row["storages"] for row in csv.DictReader(table, delimiter="\t")}


def test_the_list_of_presets_is_whole(generator: ModuleType) -> None:
    assert sorted(generator.PRESETS) == sorted(PRESETS)


@pytest.mark.parametrize("preset", PRESETS)
def test_the_index_is_the_model(preset: str, generator: ModuleType, tmp_path: Path) -> None:
    cfg = generator.get_cfg(preset)
    generator.write(cfg, str(tmp_path))
    truth = dict(_canonical(generator.logical_tensors(cfg)))
    found = dict(_values(open_checkpoint(tmp_path)))
    assert found.pop("decoder.version").tolist() == [3.0]
    assert found.keys() == truth.keys()
    for name, values in truth.items():
        assert (found[name].dtype, found[name].shape) == (values.dtype, values.shape), name
        assert found[name].tobytes() == values.tobytes(), name


def _canonical(tensors: dict[str, np.ndarray]) -> Iterator[tuple[str, np.ndarray]]:
    for name, values in tensors.items():
        if "qkv_proj" in name:
            for letter, block in zip("kvq", np.split(values, 3), strict=True):
                yield name.replace("qkv_proj", f"{letter}_proj"), block
        else:
            yield name, values


def _values(checkpoint: Checkpoint) -> Iterator[tuple[str, np.ndarray]]:
    with Reader() as reader:
        for name, tensor in checkpoint.index.items():
            raw = b"".join(map(bytes, stream(tensor, reader, Buffers())))
            yield name, np.frombuffer(raw, tensor.dtype.numpy).reshape(tensor.shape)


def storages_digest(path: Path) -> str:
    """The table's `storages` column: all storages end to end, in numeric order of their keys."""
    digest = hashlib.sha256()
    with zipfile.ZipFile(path) as archive:
        keys = [name for name in archive.namelist() if "/data/" in name]
        for name in sorted(keys, key=lambda name: int(name.rsplit("/", 1)[1])):
            digest.update(archive.read(name))
    return digest.hexdigest()[:16]


@pytest.mark.parametrize("preset", PRESETS)
def test_consolidated_parts_hold_what_the_originals_hold(
    preset: str, generator: ModuleType, digests: dict[str, str], tmp_path: Path
) -> None:
    cfg = generator.get_cfg(preset)
    generator.write(cfg, str(tmp_path / "raw"))
    *parts, _dict = run_plan(plan_metaseq(open_checkpoint(tmp_path / "raw")), tmp_path / "parts")
    for rank, path in enumerate(parts):
        expected = digests[f"{preset}/fsdp-t{rank}-n1-u1-s1-None/{path.name}"]
        assert storages_digest(path) == expected
    for count in (1, 2, 4):
        expected_rows = {
            name: value
            for name, value in digests.items()
            if name.startswith(f"{preset}/mp{cfg['tp']}to{count}/")
        }
        if not expected_rows or count == cfg["tp"] or cfg["heads"] % count:
            continue  # the original crashes, copies, or cuts through heads
        *merged, _dict = run_plan(
            plan_metaseq(open_checkpoint(tmp_path / "parts"), count), tmp_path / f"mp{count}"
        )
        same = [
            storages_digest(path) == expected_rows[f"{preset}/mp{cfg['tp']}to{count}/{path.name}"]
            for path in merged
        ]
        assert all(same) != (preset in REFERENCE_IS_WRONG), (preset, count, same)
