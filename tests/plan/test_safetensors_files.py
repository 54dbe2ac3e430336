"""How weights are shared out over files, and what the small files say."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from transformers import OPTConfig as HuggingFaceConfig

from unshard.architectures.opt import OPTConfig
from unshard.dtypes import BFLOAT16, FLOAT16, FLOAT32, FLOAT64, DType
from unshard.errors import UsageError
from unshard.index.build import open_checkpoint
from unshard.plan.copy_plan import PlannedFile, TargetTensor
from unshard.plan.safetensors_target import (
    hugging_face_config,
    model_files,
    plan_safetensors,
    tokenizer_files,
)
from unshard.testing.tiny_model import TINY, Array

Raw = tuple[Path, dict[str, Array]]


def held(file: PlannedFile) -> list[TargetTensor]:
    return [span.tensor for record in file.records for span in record.spans]


def sizes(tensors: Sequence[TargetTensor]) -> int:
    return sum(tensor.num_bytes for tensor in tensors)


@pytest.mark.parametrize("limit", [1, 40, 999, 1000, 4096, 10_000, 1 << 30])
def test_a_file_is_full_before_the_next_begins(limit: int, raw: Raw) -> None:
    """In order, none larger than the limit but where one tensor is, none that had room."""
    checkpoint = open_checkpoint(raw[0])
    files = plan_safetensors(checkpoint, limit).files
    weights = [held(file) for file in files if file.name.endswith(".safetensors")]
    [whole] = (held(file) for file in plan_safetensors(checkpoint).files if held(file))
    assert [each.name for group in weights for each in group] == [each.name for each in whole]
    assert all(len(group) == 1 or sizes(group) <= limit for group in weights)
    for group, following in pairwise(weights):
        assert sizes([*group, following[0]]) > limit
    names = [file.name for file in files if held(file)]
    if len(names) == 1:
        assert names == ["model.safetensors"]
        return
    count = len(names)
    assert names == [f"model-{n:05d}-of-{count:05d}.safetensors" for n in range(1, count + 1)]
    [index] = (file for file in files if file.name == "model.safetensors.index.json")
    assert json.loads(index.records[0].literal) == {
        "metadata": {"total_size": sizes(whole)},
        "weight_map": {
            each.name: name for name, group in zip(names, weights, strict=True) for each in group
        },
    }


def test_a_file_may_be_as_large_as_the_limit(raw: Raw) -> None:
    checkpoint = open_checkpoint(raw[0])
    [whole] = (held(file) for file in plan_safetensors(checkpoint).files if held(file))
    first, *_ = plan_safetensors(checkpoint, sizes(whole[:3])).files
    assert [each.name for each in held(first)] == [each.name for each in whole[:3]]


@pytest.mark.parametrize("limit", [0, -1])
def test_files_hold_something(limit: int, raw: Raw) -> None:
    with pytest.raises(UsageError, match="must be positive"):
        plan_safetensors(open_checkpoint(raw[0]), limit)


@pytest.mark.parametrize(
    ("dtype", "name"),
    [(FLOAT16, "float16"), (BFLOAT16, "bfloat16"), (FLOAT32, "float32"), (FLOAT64, "float32")],
)
def test_transformers_takes_the_config_for_the_models(dtype: DType, name: str) -> None:
    """A field that transformers knows and the files leave out is as it is by default."""
    said = hugging_face_config(TINY, dtype)
    assert said["torch_dtype"] == name
    known = HuggingFaceConfig().to_dict()
    ours = {"torch_dtype", "architectures", "model_type", *SIZES}
    for field in (said.keys() & known.keys()) - ours:
        assert said[field] == known[field], field


SIZES = {
    "activation_function", "ffn_dim", "hidden_size", "max_position_embeddings",
    "num_attention_heads", "num_hidden_layers", "vocab_size", "word_embed_proj_dim",
    "do_layer_norm_before", "tie_word_embeddings",
}  # fmt: skip


def test_the_tokenizer_is_as_published() -> None:
    """facebook/opt-*: GPT-2's with `</s>` in front, which is the end of a text as well."""
    config: OPTConfig = TINY
    files: dict[str, Any] = {**model_files(config, FLOAT16), **tokenizer_files(config)}
    special = {"bos_token": "</s>", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "</s>"}
    assert files["special_tokens_map.json"] == special
    assert files["tokenizer_config.json"] == special | {
        "tokenizer_class": "GPT2Tokenizer", "add_bos_token": True, "add_prefix_space": False,
        "errors": "replace", "model_max_length": config.max_positions,
    }  # fmt: skip
    defaults = HuggingFaceConfig()
    assert files["generation_config.json"] == {
        name: getattr(defaults, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")
    }
