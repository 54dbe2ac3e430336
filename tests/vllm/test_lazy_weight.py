"""A lazy weight is a tensor to whoever uses it, and reads what is used."""

from __future__ import annotations

from pathlib import Path
from unittest.mock import patch

import pytest
import torch

import unshard
from unshard.errors import FormatError, UsageError
from unshard.testing.tiny_checkpoint import write_tiny_checkpoint
from unshard.vllm import lazy_weight
from unshard.vllm.lazy_weight import BytesRead, LazyWeight

FC2 = "decoder.layers.1.fc2.weight"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_tiny_checkpoint(tmp_path)
    return tmp_path


@pytest.fixture
def weight(folder: Path) -> LazyWeight:
    return LazyWeight(unshard.open(folder)[FC2], BytesRead())


@pytest.fixture
def plain(folder: Path) -> torch.Tensor:
    return unshard.open(folder)[FC2].torch()


SLICES = {
    "all": lambda w: w,
    "rows": lambda w: w.narrow(0, 3, 5),
    "columns": lambda w: w.narrow(1, 7, 9),
    "from the end": lambda w: w.narrow(-1, -4, 4),
    "both": lambda w: w.narrow(0, 2, 8).narrow(1, 1, 2),
    "of a slice": lambda w: w[2:12][3:5],
    "every third": lambda w: w[::3, 1::2],
    "one row": lambda w: w[5],
    "one column": lambda w: w[:, -2],
    "one element": lambda w: w[2, 3],
    "none": lambda w: w[4:4],
    "detached": lambda w: w.detach().narrow(0, 1, 2),
}


@pytest.mark.parametrize("name", SLICES)
def test_a_slice_is_lazy_and_read_when_copied(name, weight, plain):
    mine, truth = SLICES[name](weight), SLICES[name](plain)
    assert isinstance(mine, LazyWeight)
    assert mine.shape == truth.shape
    assert mine.dtype is truth.dtype
    assert weight.num_read.count == 0
    target = torch.zeros(truth.shape)
    with patch.object(lazy_weight, "BLOCK_BYTES", 64):
        target.copy_(mine)
    assert torch.equal(target, truth.float())
    if "third" not in name:
        assert weight.num_read.count == truth.nbytes


OTHER_USES = {
    "arithmetic": lambda w: w + 1,
    "a cast": lambda w: w.to(torch.float32),
    "a transpose": lambda w: w.t().contiguous(),
    "another shape": lambda w: w.reshape(-1)[:7],
    "item": lambda w: w[3, 4].item(),
    "chunks": lambda w: w.chunk(2, dim=1)[1],
    "a copy": lambda w: w.clone(),
    "a broadcast": lambda w: torch.zeros(2, *w.shape).copy_(w),
    "rows by number": lambda w: w[torch.tensor([3, 1])],
    "beside another": lambda w: torch.cat([w, w.narrow(0, 1, 1)]),
    "without memory order": lambda w: torch.equal(w, w),
}


@pytest.mark.parametrize("name", OTHER_USES)
def test_any_other_use_reads_it(name, weight, plain):
    mine, truth = OTHER_USES[name](weight), OTHER_USES[name](plain)
    assert not isinstance(mine, LazyWeight)
    assert torch.equal(torch.as_tensor(mine), torch.as_tensor(truth))


def test_it_is_not_written_to(weight, plain):
    weight.add_(1)
    assert torch.equal(weight.clone(), plain)


def test_a_file_that_was_cut_off_is_named(folder, weight):
    for path in folder.glob("*.pt"):
        path.write_bytes(path.read_bytes()[:64])
    with pytest.raises(FormatError, match=f"inside tensor {FC2}|ends before"):
        torch.zeros(weight.shape).copy_(weight)


def test_a_dtype_without_a_torch_dtype_is_refused(folder):
    found = unshard.open(folder)[FC2]
    object.__setattr__(found.stored, "dtype", unshard.dtypes.INT16)
    with pytest.raises(UsageError, match="int16"):
        LazyWeight(found, BytesRead())


def test_repr_reads_nothing(weight):
    assert repr(weight) == f"<LazyWeight of <LazyTensor {FC2}: fp16 (16, 24)>>"
    assert weight.num_read.count == 0
