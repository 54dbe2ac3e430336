"""What is written is what was read, and what was read is what the files were written with."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch
from flipping import flip
from hypothesis import given
from hypothesis import strategies as st

from unshard.dtypes import BFLOAT16, FLOAT16, FLOAT32, FLOAT64, INT64, DType
from unshard.errors import CheckpointError, IntegrityError, UsageError
from unshard.execute import copy
from unshard.execute.blocks import Buffers
from unshard.execute.checksums import RangeChecksums, crc32
from unshard.execute.element_values import cast
from unshard.execute.fingerprint import fingerprint
from unshard.execute.run import run_plan
from unshard.execute.slices import SliceDigests, Slicer
from unshard.index.build import open_checkpoint
from unshard.plan.metaseq_target import plan_metaseq
from unshard.plan.safetensors_target import plan_safetensors
from unshard.tensors import Cut
from unshard.testing.tiny_checkpoint import Array

Raw = tuple[Path, dict[str, Array]]


def recorded(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "unshard.json").read_text())["fingerprint"]
    return found


@pytest.mark.parametrize("tp_size", [None, 1, 4])
def test_the_recorded_fingerprint_is_the_outputs(
    raw: Raw, tmp_path: Path, tp_size: int | None
) -> None:
    source = open_checkpoint(raw[0])
    run_plan(plan_metaseq(source, tp_size), tmp_path / "parts")
    run_plan(plan_safetensors(source, 1000), tmp_path / "hf")
    expected = fingerprint(source.index)
    for name in ("parts", "hf"):
        assert recorded(tmp_path / name)["model"] == expected.model
        assert recorded(tmp_path / name)["tensors"] == expected.tensors
        assert fingerprint(open_checkpoint(tmp_path / name).index) == expected


def test_of_a_cast_the_outputs_fingerprint_is_recorded(raw: Raw, tmp_path: Path) -> None:
    source = open_checkpoint(raw[0])
    run_plan(plan_safetensors(source, dtype=FLOAT32), tmp_path / "hf")
    found = fingerprint(open_checkpoint(tmp_path / "hf").index)
    assert recorded(tmp_path / "hf")["model"] == found.model != fingerprint(source.index).model


@pytest.mark.parametrize("where", [0, 1, -1])
def test_a_flipped_bit_of_a_source_is_found_without_a_manifest(
    raw: Raw, tmp_path: Path, where: int
) -> None:
    """torch's own checksums: also of the padding, which no tensor reads."""
    record = open_checkpoint(raw[0]).stored[where]
    last = where == -1
    flip(Path(record.path), record.offset + (record.length - 1 if last else 0))
    plan = plan_metaseq(open_checkpoint(raw[0]))
    with pytest.raises(IntegrityError, match=r"is damaged: |the copy in .* differs"):
        run_plan(plan, tmp_path / "out")
    assert not list((tmp_path / "out").glob("[!.]*.pt"))


def test_a_fault_while_copying_is_found(
    raw: Raw, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """K and V swapped between read and write, as converters have done for years."""
    source = open_checkpoint(raw[0])
    stream = copy.stream

    def faulty(*arguments: Any, **options: Any) -> Any:
        for block in stream(*arguments, **options):
            block[0] ^= 1
            yield block

    monkeypatch.setattr(copy, "stream", faulty)
    with pytest.raises(CheckpointError, match="differs from what was read"):
        run_plan(plan_safetensors(source), tmp_path / "out")


def test_no_cast_of_counts(raw: Raw, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot cast fp16 to int64"):
        run_plan(plan_safetensors(open_checkpoint(raw[0]), dtype=INT64), tmp_path / "out")


TORCH = {
    FLOAT16: (torch.float16, np.float16),
    BFLOAT16: (torch.bfloat16, ml_dtypes.bfloat16),
    FLOAT32: (torch.float32, np.float32),
    FLOAT64: (torch.float64, np.float64),
}


@pytest.mark.parametrize("target", TORCH)
@pytest.mark.parametrize("source", TORCH)
def test_casts_are_torchs(source: DType, target: DType) -> None:
    """Every 16-bit pattern, and as many random ones of the wider types; NaNs stay NaNs."""
    width = source.itemsize_bytes
    bits = (
        np.arange(1 << 16, dtype="u2")
        if width == 2
        else np.random.default_rng(0).integers(0, 1 << (8 * width), 1 << 16, f"u{width}")
    )
    signed = {2: torch.int16, 4: torch.int32, 8: torch.int64}
    values = torch.from_numpy(bits.view(f"i{width}")).view(TORCH[source][0])
    expected = values.to(TORCH[target][0])
    found = torch.from_numpy(cast(bits, source, target).view(f"i{target.itemsize_bytes}"))
    same = found == expected.view(signed[target.itemsize_bytes])
    assert bool((same | expected.isnan()).all())
    assert bool(found.view(TORCH[target][0]).isnan()[expected.isnan()].all())


@given(data=st.data())
def test_checksums_of_pieces_in_any_order(data: st.DataObject) -> None:
    content = data.draw(st.binary(min_size=1, max_size=60))
    cuts = sorted(data.draw(st.sets(st.integers(0, len(content))))) if content else []
    edges = [0, *cuts, len(content)]
    pieces = [(a, content[a:b]) for a, b in pairwise(edges)]
    sums = RangeChecksums()
    for offset, piece in data.draw(st.permutations(pieces)):
        if data.draw(st.booleans()):
            sums.see(offset, memoryview(piece))
        else:
            sums.add(offset, len(piece), crc32(piece))
    assert sums.of(0, len(content)) == crc32(content)
    assert sums.of(0, len(content) + 1) is None


@given(data=st.data())
def test_slices_do_not_depend_on_blocks(data: st.DataObject) -> None:
    """Slices of columns or rows, from blocks of any height and, for columns, any chunks."""
    dim, count = data.draw(st.sampled_from([(0, 1), (0, 3), (1, 1), (1, 2), (1, 4)]))
    rows, columns = 3 * data.draw(st.integers(1, 4)), 4 * data.draw(st.integers(1, 3))
    matrix = np.arange(rows * columns, dtype="u2").reshape(rows, columns)
    digests = SliceDigests(Slicer((rows, columns), Cut(dim, count), Buffers()))
    row = 0
    while row < rows:
        height = data.draw(st.integers(1, rows - row))
        chunks = data.draw(st.sampled_from([1, count])) if dim == 1 else 1
        width = columns // chunks
        for left in range(0, columns, width):
            digests.add(row, left, matrix[row : row + height, left : left + width])
        row += height
    slices = np.split(matrix, count, axis=dim)
    whole = SliceDigests(Slicer((1,), Cut(0, 1), Buffers()))
    for number, expected in enumerate(slices):
        whole = SliceDigests(Slicer(expected.shape, Cut(0, 1), Buffers()))
        whole.add(0, 0, np.ascontiguousarray(expected))
        assert digests.digests()[number] == whole.digests()[0]
