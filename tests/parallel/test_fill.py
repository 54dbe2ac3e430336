"""Any rank of any group is filled from any layout, and reads no byte that is another's."""

from __future__ import annotations

import os
from dataclasses import replace
from unittest.mock import patch

import numpy as np
import pytest
import torch

from unshard.architectures.opt import tensor_rules
from unshard.dtypes import BFLOAT16
from unshard.errors import CheckpointError
from unshard.index.build import open_checkpoint
from unshard.models.opt import OPTModel
from unshard.parallel import fill
from unshard.parallel.fill import fill_slices
from unshard.placement import Shard
from unshard.testing.layouts import LAYOUTS
from unshard.testing.tiny_model import TINY


class Rank:
    """A group in which nothing is computed."""

    def __init__(self, rank: int, size: int) -> None:
        self.rank = rank
        self.size = size


def targets_of(config, rank, size):
    return OPTModel(config, torch.float32, group=Rank(rank, size)).weight_targets()


def filled(checkpoint, rank, size):
    targets = targets_of(checkpoint.config, rank, size)
    rules = tensor_rules(checkpoint.config)
    placements = {name: rule.placement for name, rule in rules.items()}
    fill_slices(checkpoint.index, placements, targets, rank, size)
    return targets


def as_floats(array, dtype):
    if dtype is BFLOAT16:
        return (array.astype(np.uint32) << 16).view(np.float32)
    return array.astype(np.float32)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_rank_from_every_layout(layout, tmp_path):
    config = replace(TINY, embedding_size=8, pre_norm=False)
    truth = LAYOUTS[layout](tmp_path, config)
    checkpoint = open_checkpoint(tmp_path)
    rules = tensor_rules(config)
    preadv, num_read = os.preadv, 0

    def counting(*arguments):
        nonlocal num_read
        count = preadv(*arguments)
        num_read += count
        return count

    for rank in range(4):
        num_read = 0
        with patch.object(os, "preadv", counting), patch.object(fill, "BLOCK_BYTES", 64):
            targets = filled(checkpoint, rank, 4)
        share = 0
        for name, target in targets.items():
            whole = as_floats(truth[name], checkpoint.index[name].dtype)
            placement = rules[name].placement
            mine = whole
            if isinstance(placement, Shard):
                mine = np.split(whole, 4, axis=placement.dim)[rank]
            assert np.array_equal(target.numpy(), mine), name
            share += mine.size * checkpoint.index[name].dtype.itemsize_bytes
        assert num_read == share


def test_a_vocabulary_that_does_not_divide_is_read_whole(tmp_path):
    config = replace(TINY, vocab_size=55)
    truth = LAYOUTS["safetensors"](tmp_path, config)
    targets = filled(open_checkpoint(tmp_path), 1, 2)
    name = "decoder.embed_tokens.weight"
    assert np.array_equal(targets[name].numpy(), truth[name].astype(np.float32))


def test_another_shape_is_refused(tmp_path):
    LAYOUTS["safetensors"](tmp_path)
    checkpoint = open_checkpoint(tmp_path)
    other = replace(checkpoint, config=replace(TINY, ffn_dim=40))
    with pytest.raises(CheckpointError, match=r"fc1.*rank 1 of 2 needs \(20, 16\).*\(24, 16\)"):
        filled(other, 1, 2)
    other = replace(checkpoint, config=replace(TINY, num_layers=3))
    with pytest.raises(CheckpointError, match=r"layers.2.*the checkpoint has None"):
        filled(other, 1, 2)
