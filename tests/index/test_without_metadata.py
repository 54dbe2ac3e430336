"""Flat parameters without shard_metadata: what the releases of 2022 hold."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from unshard.architectures.opt import KNOWN_MODELS, OPTConfig
from unshard.dtypes import FLOAT16
from unshard.errors import CheckpointError
from unshard.index.arguments import ModelArguments
from unshard.index.build import open_checkpoint
from unshard.index.checkpoint import Checkpoint, PartMetadata
from unshard.index.derived_units import derive_flat_parameters
from unshard.index.part import PartFiles, RankFile
from unshard.tensors import TensorRef
from unshard.testing.tiny_checkpoint import write_tiny_checkpoint
from unshard.testing.tiny_metaseq import MetaseqForm
from unshard.testing.tiny_model import TINY, Array

ReadModel = Callable[[Checkpoint], dict[str, Array]]
Edit = Callable[[Path, Callable[[dict[str, Any]], None]], None]

TP_SIZES = {"OPT-350M": (1,), "OPT-66B": (8,), "OPT-175B": (8, 16)}


def layer_numel(width: int, tp_size: int) -> int:
    """K, V, Q, fc1 and their biases are split, out_proj and fc2 too, but not their biases."""
    split = 3 * width * width + 3 * width + 4 * width * width + 4 * width
    split += width * width + 4 * width * width
    return split // tp_size + width + width + 4 * width


def root_numel(config: OPTConfig, tp_size: int) -> int:
    width, narrow = config.hidden_size, config.embedding_size
    total = 50272 * narrow // tp_size + 2050 * width
    if narrow != width:
        return total + 2 * width * narrow
    return total + 2 * width


def part_of(config: OPTConfig, tp_size: int, fsdp_size: int, *, wrapped: bool = True) -> PartFiles:
    """A part's files as far as the arithmetic sees them: lengths and nothing else."""
    layer = layer_numel(config.hidden_size, tp_size)
    lengths = {"flat_param_0": root_numel(config, tp_size)}
    if wrapped:
        layers = range(config.num_layers)
        lengths |= {f"decoder.layers.{number}.flat_param_0": layer for number in layers}
    else:
        lengths["flat_param_0"] += config.num_layers * layer
    model = {
        name: TensorRef(name, FLOAT16, (-(-length // fsdp_size),), ())
        for name, length in lengths.items()
    }
    ranks = tuple(RankFile(f"shard{rank}.pt", model, None, ()) for rank in range(fsdp_size))
    return PartFiles(ranks, ModelArguments(), PartMetadata({}, {}))


@pytest.mark.parametrize("fsdp_size", [1, 8])
@pytest.mark.parametrize("name", KNOWN_MODELS)
def test_sizes_alone_identify_every_published_model(name: str, fsdp_size: int) -> None:
    config = KNOWN_MODELS[name]
    for tp_size in TP_SIZES.get(name, (1, 2, 4)):
        flats, evidence = derive_flat_parameters("x", part_of(config, tp_size, fsdp_size), tp_size)
        assert f"those of {name}," in evidence
        assert len(flats) == 1 + config.num_layers
        assert flats[0].shapes[0] == (50272 // tp_size, config.embedding_size)
        whole = part_of(config, tp_size, fsdp_size, wrapped=False)
        [flat], evidence = derive_flat_parameters("x", whole, tp_size)
        assert f"those of {name}," in evidence
        assert flat.names[2 + (name == "OPT-350M")].startswith("decoder.layers.0.self_attn.")


def test_the_numbers_of_opt_175b() -> None:
    """Lengths that were seen in the real files."""
    config = KNOWN_MODELS["OPT-175B"]
    assert layer_numel(config.hidden_size, 8) == 226_576_896
    assert root_numel(config, 8) == 102_432_768
    flats, _ = derive_flat_parameters("x", part_of(config, 8, 124), 8)
    assert (flats[0].num_elements, flats[1].num_elements) == (102_432_768, 226_576_896)
    assert flats[1].names[:3] == (
        "decoder.layers.0.self_attn.qkv_proj.weight",
        "decoder.layers.0.self_attn.qkv_proj.bias",
        "decoder.layers.0.self_attn.out_proj.weight",
    )


FLAT = MetaseqForm(shard_metadata=False)
NAME = "reshard-model_part-{part}.pt"


def write(folder: Path, config: OPTConfig = TINY, **how: Any) -> dict[str, Array]:
    how = {"fsdp_size": 1, "form": FLAT, "name": NAME} | how
    return write_tiny_checkpoint(folder, config, **how)


@pytest.mark.parametrize("fused", [True, False])
def test_by_the_table_of_known_models(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, read_model: ReadModel, fused: bool
) -> None:
    """No cfg, no metadata: the sizes say which model, and only that one is K, V, Q separate."""
    name = "OPT-tiny" if fused else "OPT-350M"
    monkeypatch.setitem(KNOWN_MODELS, name, TINY)
    truth = write(tmp_path, form=replace(FLAT, arguments="absent", fused=fused))
    checkpoint = open_checkpoint(tmp_path)
    assert checkpoint.config == TINY
    found = read_model(checkpoint)
    assert all((found[each] == values).all() for each, values in truth.items())
    assert any(f"{name} has 4 attention heads" in said for said in checkpoint.layout.evidence)


def set_argument(content: dict[str, Any], value: object, field: str) -> None:
    content["cfg"]["model"].state[field] = value


def test_sizes_of_no_published_model(tmp_path: Path) -> None:
    write(tmp_path, form=replace(FLAT, arguments="absent"))
    with pytest.raises(CheckpointError, match="no published OPT fits"):
        open_checkpoint(tmp_path)


@pytest.mark.parametrize(
    ("field", "value", "problem"),
    [
        ("decoder_ffn_embed_dim", 28, r"layers\.0\.flat_param_0 has \d+ elements, but \d+ are"),
        ("max_target_positions", 1000, r"by cfg flat_param_0 has \d+ elements, but \d+ are here"),
        ("max_target_positions", None, None),
        ("decoder_layers", 3, "decoder_layers is 3, but flat parameters of 2 layers"),
        ("decoder_embed_dim", 12, r"has \d+ elements, but \d+ are here"),
        ("decoder_ffn_embed_dim", None, "does not say decoder_ffn_embed_dim"),
    ],
)
def test_numbers_that_do_not_come_out(
    tmp_path: Path, edit: Edit, field: str, value: int | None, problem: str | None
) -> None:
    """The unit and both numbers are named. Positions may come from tokens_per_sample."""
    write(tmp_path, tp_size=1)
    edit(tmp_path / "reshard-model_part-0.pt", lambda content: set_argument(content, value, field))
    if problem is None:
        assert open_checkpoint(tmp_path).config == TINY
        return
    with pytest.raises(CheckpointError, match=problem):
        open_checkpoint(tmp_path)


def test_a_shard_too_few(tmp_path: Path) -> None:
    write(tmp_path, tp_size=1, fsdp_size=3, name="c-shard{shard}.pt")
    (tmp_path / "c-shard2.pt").unlink()
    with pytest.raises(CheckpointError, match=r"flat_param_0 has \d+ elements, but \d+ over 2"):
        open_checkpoint(tmp_path)


def test_units_that_nobody_can_tell_apart(tmp_path: Path) -> None:
    write(tmp_path, replace(TINY, num_layers=4), form=replace(FLAT, wrapping=2), tp_size=1)
    with pytest.raises(CheckpointError, match=r"but flat parameters of 2 layers are here"):
        open_checkpoint(tmp_path)


def test_a_vocabulary_that_padding_hides(tmp_path: Path) -> None:
    """With more shards than a row has elements, several vocabularies fill the same shards."""
    tiny = replace(TINY, hidden_size=4, embedding_size=4, num_heads=1)
    write(tmp_path, tiny, tp_size=1, fsdp_size=50, name="c-shard{shard}.pt")
    with pytest.raises(CheckpointError, match="vocabulary may be"):
        open_checkpoint(tmp_path)


def test_an_absurd_number_of_layers_in_one_unit(tmp_path: Path, edit: Edit) -> None:
    write(tmp_path, tp_size=1, form=replace(FLAT, wrapping="root"))
    path = tmp_path / "reshard-model_part-0.pt"
    edit(path, lambda content: set_argument(content, 10**9, "decoder_layers"))
    with pytest.raises(CheckpointError, match="decoder_layers is 1000000000"):
        open_checkpoint(tmp_path)
