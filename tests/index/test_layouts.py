"""Whatever the layout, the index holds exactly the model, bit for bit."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from unshard.dtypes import FLOAT16, FLOAT32
from unshard.execute.blocks import Buffers, stream
from unshard.execute.reader import Reader
from unshard.index.build import open_checkpoint
from unshard.index.checkpoint import Checkpoint
from unshard.testing.tiny_checkpoint import TINY, Array, write_tiny_checkpoint

OPT_350M_STYLE = replace(TINY, embedding_size=8, pre_norm=False)


def read_all(checkpoint: Checkpoint, block_bytes: int = 64) -> dict[str, Array]:
    """Every tensor through the one stream that all sinks use, in blocks that never fit."""
    values = {}
    with Reader() as reader:
        for name, tensor in checkpoint.index.items():
            blocks = stream(tensor, reader, Buffers(), block_bytes)
            raw = b"".join(bytes(block) for block in blocks)
            values[name] = np.frombuffer(raw, tensor.dtype.numpy).reshape(tensor.shape)
    return values


def assert_same(found: dict[str, Array], truth: dict[str, Array]) -> None:
    assert found.keys() == truth.keys()
    for name, values in truth.items():
        assert found[name].dtype == values.dtype, name
        np.testing.assert_array_equal(found[name], values, err_msg=name)


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("dtype", [FLOAT16, FLOAT32])
@pytest.mark.parametrize(("tp_size", "fsdp_size"), [(1, 1), (1, 4), (2, 3), (4, 7), (2, 12)])
def test_raw_files_are_the_model(
    tmp_path: Path, tp_size: int, fsdp_size: int, dtype: object, fused: bool
) -> None:
    truth = write_tiny_checkpoint(
        tmp_path, tp_size=tp_size, fsdp_size=fsdp_size, dtype=dtype, fused=fused
    )
    checkpoint = open_checkpoint(tmp_path)
    assert checkpoint.layout.kind == "metaseq-raw"
    assert (checkpoint.layout.tp_size, checkpoint.layout.fsdp_size) == (tp_size, fsdp_size)
    assert checkpoint.layout.fused_qkv is fused
    assert checkpoint.config == TINY
    assert_same(read_all(checkpoint), truth)


@pytest.mark.parametrize(
    "config", [OPT_350M_STYLE, replace(TINY, tied_embeddings=False)], ids=["350m", "untied"]
)
def test_variants(tmp_path: Path, config: object) -> None:
    truth = write_tiny_checkpoint(tmp_path, config, tp_size=1, fsdp_size=2, fused=False)
    checkpoint = open_checkpoint(tmp_path)
    assert checkpoint.config == config
    assert_same(read_all(checkpoint), truth)


@pytest.mark.slow
@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    layers=st.integers(1, 12),
    heads=st.sampled_from([4, 8]),
    head_dim=st.integers(1, 5),
    ffn=st.integers(1, 7),
    vocab=st.integers(1, 9),
    tp_size=st.sampled_from([1, 2, 4]),
    fsdp_size=st.integers(1, 13),
    block_bytes=st.integers(1, 4096),
)
def test_any_shape(
    tmp_path_factory: pytest.TempPathFactory,
    layers: int,
    heads: int,
    head_dim: int,
    ffn: int,
    vocab: int,
    tp_size: int,
    fsdp_size: int,
    block_bytes: int,
) -> None:
    hidden = heads * head_dim
    config = replace(
        TINY, num_layers=layers, hidden_size=hidden, embedding_size=hidden, num_heads=heads,
        ffn_dim=ffn * 4, vocab_size=vocab * 4,
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("any")
    truth = write_tiny_checkpoint(folder, config, tp_size=tp_size, fsdp_size=fsdp_size)
    checkpoint = open_checkpoint(folder)
    assert_same(read_all(checkpoint, block_bytes), truth)


def test_every_stored_byte_is_accounted_for(raw: tuple[Path, dict[str, Array]]) -> None:
    ledger = open_checkpoint(raw[0]).index.ledger
    assert ledger.padding_bytes > 0
    assert ledger.replica_bytes > 0
    assert ledger.stored_bytes == ledger.unique_bytes + ledger.replica_bytes + ledger.padding_bytes


def test_a_pattern_and_a_folder_are_the_same(raw: tuple[Path, dict[str, Array]]) -> None:
    folder, truth = raw
    assert_same(read_all(open_checkpoint(f"{folder}/checkpoint_last*.pt")), truth)
