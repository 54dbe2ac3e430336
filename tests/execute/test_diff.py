"""What `diff` says of two checkpoints equals what numpy says of their whole tensors."""

from __future__ import annotations

import math
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from safetensors.numpy import load_file, save_file

from unshard.dtypes import BFLOAT16, FLOAT16, FLOAT32, FLOAT64, DType
from unshard.execute.diff import diff, layer_differences
from unshard.execute.run import run_plan
from unshard.execute.value_difference import DifferenceCounter, ValueDifference
from unshard.index.build import open_checkpoint
from unshard.plan.safetensors_target import plan_safetensors
from unshard.tensors import TensorIndex
from unshard.testing.tiny_checkpoint import TINY, Array, write_tiny_checkpoint

Raw = tuple[Path, dict[str, Array]]
FC1 = "decoder.layers.1.fc1.weight"


def values_of(bits: np.ndarray, dtype: DType) -> np.ndarray:
    with np.errstate(invalid="ignore"):
        if dtype is BFLOAT16:
            return (bits.astype("<u4") << 16).view("<f4").astype(np.float64)
        return bits.view(dtype.numpy).astype(np.float64)


def count(
    left: np.ndarray, right: np.ndarray, dtypes: tuple[DType, DType], blocks: int = 1
) -> ValueDifference | None:
    counter = DifferenceCounter(left.shape, *dtypes)
    for mine, theirs in zip(
        np.array_split(left.reshape(-1), blocks), np.array_split(right.reshape(-1), blocks),
        strict=True,
    ):  # fmt: skip
        counter.add(memoryview(mine.tobytes()), memoryview(theirs.tobytes()))
    return counter.result()


@given(data=st.data(), blocks=st.integers(1, 3))
@pytest.mark.parametrize("left_dtype", [FLOAT16, BFLOAT16, FLOAT32])
@pytest.mark.parametrize("right_dtype", [FLOAT16, FLOAT32, FLOAT64])
def test_counts_are_numpys(
    left_dtype: DType, right_dtype: DType, data: st.DataObject, blocks: int
) -> None:
    shape = (4, 3)
    few = st.sampled_from([0, 1, 0x3C00, 0x7C00, 0x7E01, 0x7FFF, 0x8000, 0xC000])
    patterns = [
        data.draw(arrays(f"<u{dtype.itemsize_bytes}", shape, elements=few))
        << np.array(8 * dtype.itemsize_bytes - 16, f"<u{dtype.itemsize_bytes}")
        for dtype in (left_dtype, right_dtype)
    ]
    left, right = patterns
    a, b = values_of(left, left_dtype), values_of(right, right_dtype)
    both_nan = np.isnan(a) & np.isnan(b)
    unequal = (a != b) & ~both_nan
    different = (left != right) if left_dtype == right_dtype else unequal
    found = count(left, right, (left_dtype, right_dtype), blocks)
    if not different.any():
        assert found is None
        return
    assert found is not None
    assert (found.num_elements, found.num_different) == (12, different.sum())
    assert found.num_unequal == unequal.sum()
    assert found.num_nan == (unequal & (np.isnan(a) | np.isnan(b))).sum()
    first = np.unravel_index(different.argmax(), shape)
    assert found.first_index == first
    np.testing.assert_equal(found.first_values, (a[first], b[first]))
    numbers = different & ~np.isnan(a) & ~np.isnan(b)
    if numbers.any():
        deltas = abs(a[numbers] - b[numbers])
        assert found.max_abs_delta == deltas.max()
        assert abs(a[found.max_index] - b[found.max_index]) == deltas.max()
        assert found.mean_abs_delta == pytest.approx(deltas.mean())
    else:
        assert math.isnan(found.max_abs_delta)
        assert found.max_index is None
    assert f"first at index {tuple(map(int, first))}" in str(found)


def export(folder: Path, out: Path, dtype: type | None = None, **changes: Array) -> TensorIndex:
    """As safetensors, perhaps in another dtype, perhaps with other tensors (`fc1=…`)."""
    run_plan(plan_safetensors(open_checkpoint(folder)), out)
    path = out / "model.safetensors"
    tensors = load_file(path)
    for suffix, values in changes.items():
        [name] = [each for each in tensors if each.endswith(f"layers.1.{suffix}.weight")]
        tensors[name] = values
    save_file({k: v.astype(dtype or v.dtype) for k, v in tensors.items()}, path)
    return open_checkpoint(out).index


def test_across_layouts_with_index_values_and_deltas(raw: Raw, tmp_path: Path) -> None:
    changed = raw[1][FC1].copy()
    changed[3, 5] += np.float16(0.25)
    changed[20, 1] -= np.float16(2)
    other = export(raw[0], tmp_path / "hf", fc1=changed)
    mine = open_checkpoint(raw[0]).index
    [found] = diff(mine, other)
    assert (found.name, found.values.num_different) == (FC1, 2)
    assert found.values.first_index == (3, 5)
    assert found.values.first_values == (float(raw[1][FC1][3, 5]), float(changed[3, 5]))
    assert found.values.max_index == (20, 1)
    deltas = abs(raw[1][FC1].astype(np.float64) - changed)
    assert found.values.max_abs_delta == deltas.max()
    assert found.values.mean_abs_delta == pytest.approx(deltas.sum() / 2)
    assert not found.has_equal_values
    root, first, second = layer_differences(mine, other, [found])
    assert (root.layer, root.num_different_tensors, first.num_different_tensors) == (None, 0, 0)
    assert (second.num_tensors, second.num_different_tensors) == (16, 1)
    assert (second.num_different_elements, second.max_abs_delta) == (2, deltas.max())


def test_a_wider_dtype_is_a_difference_with_equal_values(raw: Raw, tmp_path: Path) -> None:
    other = export(raw[0], tmp_path / "hf", np.float32)
    found = diff(open_checkpoint(raw[0]).index, other)
    assert [each.name for each in found] == list(other)
    for each in found:
        assert each.what == "dtypes differ (fp16, fp32); values equal"
        assert each.has_equal_values


def test_a_wider_dtype_with_other_values(raw: Raw, tmp_path: Path) -> None:
    write_tiny_checkpoint(tmp_path / "fp32", dtype=FLOAT32)
    [*found] = diff(open_checkpoint(raw[0]).index, open_checkpoint(tmp_path / "fp32").index)
    by_name = {each.name: each for each in found}
    rounding = by_name[FC1].values
    assert by_name[FC1].what.startswith("dtypes differ (fp16, fp32); first at index (")
    assert 0 < rounding.max_abs_delta < 2**-11
    assert not by_name[FC1].has_equal_values


def test_differences_come_in_model_order(tmp_path: Path) -> None:
    """Other values, other shapes, and a layer that only one of them has."""
    write_tiny_checkpoint(tmp_path / "a")
    write_tiny_checkpoint(tmp_path / "b", replace(TINY, num_layers=3, vocab_size=64), seed=1)
    a, b = (open_checkpoint(tmp_path / name).index for name in "ab")
    for left, right, side in ((a, b, "second"), (b, a, "first")):
        found = diff(left, right)
        assert [each.name for each in found] == [name for name in b if name != "decoder.version"]
        assert found[0].what.startswith("shapes differ ((")
        assert all(
            (each.what == f"only in the {side} checkpoint") == (".layers.2." in each.name)
            for each in found
        )
        assert layer_differences(left, right, found)[-1].num_different_tensors == 16


def test_blocks_of_large_rows_stay_in_step(tmp_path: Path) -> None:
    """fp16 against fp32 with several blocks per tensor."""
    config = replace(TINY, hidden_size=512, ffn_dim=1024, embedding_size=512, num_layers=1)
    write_tiny_checkpoint(tmp_path / "raw", config, tp_size=1, fsdp_size=1)
    index = open_checkpoint(tmp_path / "raw").index
    other = export(tmp_path / "raw", tmp_path / "hf", np.float32)
    assert all(each.has_equal_values for each in diff(index, other))
    shutil.rmtree(tmp_path)
