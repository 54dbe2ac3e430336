"""A slice of a lazy tensor is numpy's slice of the whole one, read with hardly a byte beside."""

from __future__ import annotations

import itertools
import math
import pickle
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, basic_indices

import unshard
from unshard.dtypes import BFLOAT16, FLOAT16, FLOAT32, DType
from unshard.errors import FormatError
from unshard.library import read
from unshard.library.lazy_tensor import LazyTensor, whole_tensor
from unshard.tensors import ByteRange, Chunk, LogicalTensor, TensorRef

in_a_folder = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
FC1 = "decoder.layers.0.fc1.weight"


def stored(truth: np.ndarray, cuts: list[list[int]], dtype: DType, path: Path) -> LazyTensor:
    """`truth` in one file, cut at `cuts` of each dimension, each chunk torn in two ranges."""
    edges = [[0, *cut, size] for cut, size in zip(cuts, truth.shape, strict=True)]
    content, chunks = bytearray(b"junk"), []
    for box in itertools.product(*(list(itertools.pairwise(edge)) for edge in edges)):
        raw = truth[tuple(slice(*bounds) for bounds in box)].tobytes()
        middle, ranges = len(raw) // 3, []
        for half in (raw[:middle], raw[middle:]):
            ranges.append(ByteRange(str(path), len(content), len(half)))
            content += half + b"gap"
        sizes = tuple(stop - start for start, stop in box)
        offsets = tuple(start for start, _ in box)
        chunks.append(Chunk(offsets, TensorRef("x", dtype, sizes, tuple(ranges))))
    path.write_bytes(content)
    return whole_tensor(LogicalTensor("x", dtype, truth.shape, tuple(chunks)))


@st.composite
def tensors_and_indices(
    draw: st.DrawFn, max_dims: int = 3
) -> tuple[np.ndarray, list[list[int]], list[object]]:
    shape = draw(array_shapes(min_dims=0, max_dims=max_dims, max_side=9))
    cuts = [sorted(draw(st.sets(st.integers(1, max(1, n - 1)), max_size=2)) - {n}) for n in shape]
    truth = np.arange(math.prod(shape), dtype="<f4").reshape(shape)
    first = draw(basic_indices(shape)) if shape else ...
    left = truth[first].shape
    return truth, cuts, [first, draw(basic_indices(left)) if left else ()]


@in_a_folder
@given(tensors_and_indices(), st.sampled_from([0, 9, 1 << 20]), st.sampled_from([1, 40, 1 << 20]))
def test_any_slice_of_any_slice(tmp_path, counted_reads, drawn, gap_bytes, group_bytes):
    truth, cuts, indices = drawn
    lazy, expected = stored(truth, cuts, FLOAT32, tmp_path / "x"), truth
    for index in indices:
        lazy, expected = lazy[index], expected[index]
        assert lazy.shape == expected.shape
    with (
        patch.object(read, "GAP_BYTES", gap_bytes),
        patch.object(read, "GROUP_BYTES", group_bytes),
        counted_reads() as count,
    ):
        found = np.asarray(lazy)
    np.testing.assert_array_equal(found, expected)
    assert found.flags.c_contiguous
    assert (lazy.ndim, lazy.nbytes) == (expected.ndim, expected.nbytes)
    assert count.num_bytes >= expected.nbytes


@in_a_folder
@given(data=st.data())
def test_every_layout_gives_the_same_slices(model, folder, data):
    checkpoint = unshard.open(folder)
    name = data.draw(st.sampled_from(sorted(checkpoint)))
    index = data.draw(basic_indices(model.truth[name].shape))
    found, expected = np.asarray(checkpoint[name][index]), model.truth[name][index]
    np.testing.assert_array_equal(found, expected)
    assert found.dtype == expected.dtype


@in_a_folder
@given(tensors_and_indices(max_dims=2))
def test_where_gaps_are_skipped_no_byte_more_is_read(tmp_path, counted_reads, drawn):
    truth, cuts, (index, _) = drawn
    lazy = stored(truth, cuts, FLOAT32, tmp_path / "x")[index]
    steps_in_a_row = [axis.step for axis in lazy.axes[1:] if isinstance(axis, range)]
    assume(all(abs(step) == 1 for step in steps_in_a_row))  # what is between is read along
    with patch.object(read, "GAP_BYTES", 0), counted_reads() as count:
        lazy.numpy()
    assert count.num_bytes == lazy.nbytes


@pytest.mark.parametrize(
    ("index", "num_elements"),
    [
        ((3,), 5000),
        ((slice(10, 20),), 50_000),
        ((slice(None, None, -1),), 200_000),
        ((3, slice(5, 9)), 4),
        ((7, 4999), 1),
        ((slice(0, 0),), 0),
        ((slice(2, 4), 7), 5001),  # the row between is nearer than a new read
        ((slice(None, None, 20),), 10_000),  # so far apart that each row is read by itself
        ((slice(0, 4, 2),), 15_000),  # near enough to read the row between
    ],
)
def test_how_many_bytes_a_slice_reads(tmp_path, counted_reads, index, num_elements):
    truth = np.arange(200_000, dtype="<f4").reshape(40, 5000)
    lazy = stored(truth, [[], []], FLOAT32, tmp_path / "x")
    with counted_reads() as count:
        found = lazy[index].numpy()
    np.testing.assert_array_equal(found, truth[index])
    assert count.num_bytes == 4 * num_elements


def test_narrow_columns_of_wide_rows_are_read_alone(tmp_path, counted_reads):
    truth = np.arange(120_000, dtype="<f4").reshape(6, 20_000)
    lazy = stored(truth, [[], []], FLOAT32, tmp_path / "x")
    with counted_reads() as count:
        np.testing.assert_array_equal(lazy[..., 5:9].numpy(), truth[:, 5:9])
    assert count.num_bytes == 6 * 4 * 4


@pytest.mark.parametrize(
    ("index", "words"),
    [
        (24, "index 24 is out of range for a dimension of size 24"),
        (-25, "index -25 is out of range"),
        ((0, 16), "index 16 is out of range for a dimension of size 16"),
        ((0, 0, 0), "3 indices for a tensor of 2 dimensions"),
        ((..., ...), "one ... only"),
        (None, "integers, slices and ..., not NoneType"),
        (True, "not bool"),
        (np.True_, "not bool"),
        ([0, 1], "not list; np.stack"),
        (np.array([0, 1]), "not ndarray"),
        ("fc1", "not str"),
        (1.0, "not float"),
    ],
)
def test_what_is_no_index_is_an_index_error(model, index, words):
    with pytest.raises(IndexError, match=words):
        unshard.open(model.folders["raw"])[FC1][index]


def test_rows_in_any_order_and_numpy_integers(model):
    weight, truth = unshard.open(model.folders["raw"])[FC1], model.truth[FC1]
    np.testing.assert_array_equal(np.stack([weight[i] for i in (5, 2, 5)]), truth[[5, 2, 5]])
    np.testing.assert_array_equal(weight[np.int64(4)], truth[4])
    np.testing.assert_array_equal([row.numpy() for row in weight], truth)


def test_bf16_is_never_passed_off_as_something_else(tmp_path):
    values = np.array([1.0, -2.5, 3.140625, np.inf, 1e-40], "<f4")
    halves = (values.view("<u4") >> 16).astype("<u2")
    lazy = stored(halves, [[2]], BFLOAT16, tmp_path / "x")
    with pytest.raises(unshard.errors.UsageError, match="numpy has no bf16") as error:
        np.asarray(lazy)
    assert "float32" in error.value.hint
    exact = (halves.astype("<u4") << 16).view("<f4")
    np.testing.assert_array_equal(np.asarray(lazy, "float32"), exact)
    np.testing.assert_array_equal(lazy.numpy("float64"), exact.astype("float64"))
    np.testing.assert_array_equal(lazy.bits(), halves)
    assert float(lazy[1].numpy("f4")) == -2.5
    tensor = lazy.torch()
    assert str(tensor.dtype) == "torch.bfloat16"
    np.testing.assert_array_equal(tensor.float().numpy(), exact)


def test_torch_and_numpy_give_the_same_values(model):
    weight, truth = unshard.open(model.folders["raw"])[FC1], model.truth[FC1]
    for index in (..., (slice(None, None, -3), slice(4, 9)), (3, 4), slice(0, 0)):
        tensor = weight[index].torch()
        assert str(tensor.dtype) == "torch.float16"
        np.testing.assert_array_equal(tensor.numpy(), truth[index])
    assert weight.numpy("f8").dtype == np.dtype("f8")
    with pytest.raises(ValueError, match="makes a new array"):
        np.array(weight, copy=False)


def test_a_lazy_tensor_is_what_it_says(model):
    weight = unshard.open(model.folders["raw"])[FC1]
    assert (weight.name, weight.shape, weight.dtype) == (FC1, (24, 16), FLOAT16)
    assert (weight.ndim, weight.itemsize, weight.nbytes, len(weight)) == (2, 2, 768, 24)
    assert repr(weight[2:5]) == f"<LazyTensor {FC1}: fp16 (3, 16)>"
    again = pickle.loads(pickle.dumps(weight[3]))
    np.testing.assert_array_equal(again, model.truth[FC1][3])
    with pytest.raises(TypeError, match="no length"):
        len(weight[0, 0])


def test_a_file_cut_short_is_named(tmp_path):
    lazy = stored(np.zeros((4, 4), "<f4"), [[2], []], FLOAT32, tmp_path / "x")
    content = (tmp_path / "x").read_bytes()
    (tmp_path / "x").write_bytes(content[: len(content) // 2])
    lazy[0].numpy()
    with pytest.raises(FormatError, match="ends before byte"):
        lazy.numpy()
