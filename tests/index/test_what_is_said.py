"""The sentences on a layout are right ones, and what nobody says is as transformers has it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import OPTConfig as HuggingFaceConfig

from unshard.errors import FormatError, UsageError
from unshard.index.arguments import ModelArguments
from unshard.index.build import open_checkpoint
from unshard.index.evidence import model_evidence, naming_evidence
from unshard.index.grid import place_files
from unshard.index.hugging_face_config import MAX_COUNT, read_config
from unshard.index.sources import find_source
from unshard.testing.tiny_metaseq import MetaseqForm
from unshard.testing.tiny_model import TINY
from unshard.testing.tiny_parts import write_tiny_parts

Edit = Callable[[Path, Callable[[dict[str, Any]], None]], None]
PART, SHARD = "-model_part-{}", "-shard{}"


@pytest.mark.parametrize(
    ("parts", "shards", "said"),
    [
        (0, 0, "one tensor-parallel part (no -model_part-N) x one file (no -shardN)"),
        (1, 0, "1 tensor-parallel part x one file (no -shardN)"),
        (2, 0, "2 tensor-parallel parts x one file each (no -shardN)"),
        (0, 1, "one tensor-parallel part (no -model_part-N) x 1 FSDP shard"),
        (0, 2, "one tensor-parallel part (no -model_part-N) x 2 FSDP shards"),
        (2, 3, "2 tensor-parallel parts x 3 FSDP shards"),
    ],
)
def test_what_names_give(parts: int, shards: int, said: str) -> None:
    """0 where names have no such number."""
    in_part = [PART.format(part) for part in range(parts)] or [""]
    in_shard = [SHARD.format(shard) for shard in range(shards)] or [""]
    paths = [Path(f"a{part}{shard}.pt") for part in in_part for shard in in_shard]
    assert naming_evidence(place_files("test", paths)) == f"file names give {said}"


@pytest.mark.parametrize(("given", "said"), [(11, False), (12, True), (None, False)])
def test_cfg_is_contradicted_only_where_it_is_wrong(given: int | None, said: bool) -> None:
    sentences = list(model_evidence(TINY, ModelArguments(num_heads=4, max_positions=given)))
    assert sentences[0] == "cfg gives 4 attention heads"
    assert any("they count" in each for each in sentences) is said


@pytest.mark.parametrize("tied", [True, False])
def test_a_copy_is_one_where_cfg_says_so(tied: bool, tmp_path: Path, edit: Edit) -> None:
    form = MetaseqForm(output_copy="copy", shard_metadata=False)
    write_tiny_parts(tmp_path, tp_size=1, form=form)

    def say(content: dict[str, Any]) -> None:
        content["cfg"]["model"].state["share_decoder_input_output_embed"] = tied

    edit(tmp_path / "reshard-model_part-0.pt", say)
    checkpoint = open_checkpoint(tmp_path)
    assert checkpoint.config.tied_embeddings is tied
    assert len(checkpoint.index["decoder.embed_tokens.weight"].replicas) == tied
    assert any(
        ("tied by cfg" if tied else "of its own: cfg") in e for e in checkpoint.layout.evidence
    )


NEEDED = {
    "model_type": "opt", "num_hidden_layers": 2, "hidden_size": 16, "num_attention_heads": 4,
    "ffn_dim": 24, "vocab_size": 56, "max_position_embeddings": 11,
}  # fmt: skip


def config_file(folder: Path, **said: object) -> Path:
    path = folder / "config.json"
    path.write_text(json.dumps(NEEDED | said))
    return path


def test_what_a_config_leaves_out(tmp_path: Path) -> None:
    ours, theirs = read_config(config_file(tmp_path)), HuggingFaceConfig(**NEEDED)
    assert ours.pre_norm == theirs.do_layer_norm_before
    assert ours.tied_embeddings == theirs.tie_word_embeddings
    assert ours.activation == theirs.activation_function
    assert ours.embedding_size == theirs.word_embed_proj_dim


@pytest.mark.parametrize("value", [0, -1, MAX_COUNT + 1, 2.0, True, "2", None])
def test_numbers_that_cannot_be(value: object, tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="ffn_dim is no number between"):
        read_config(config_file(tmp_path, ffn_dim=value))


@pytest.mark.parametrize("value", [1, MAX_COUNT])
def test_numbers_that_just_can(value: int, tmp_path: Path) -> None:
    assert read_config(config_file(tmp_path, ffn_dim=value)).ffn_dim == value


@pytest.mark.parametrize("name", ["a.bin", "a", "gone/a.pt", "b.pt"])
def test_only_archives_are_split_into_parts(name: str, tmp_path: Path) -> None:
    (tmp_path / "a-model_part-0.pt").touch()
    with pytest.raises(UsageError, match="no such file or folder"):
        find_source(str(tmp_path / name))
    assert len(find_source(str(tmp_path / "a.pt")).files) == 1
