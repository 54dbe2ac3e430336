"""The Hugging Face layout: safetensors, config.json and the tokenizer's files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from unshard.architectures.opt import (
    BOS_TOKEN_ID,
    EOS_TOKEN_ID,
    PAD_TOKEN_ID,
    OPTConfig,
    tensor_rules,
)
from unshard.dtypes import BFLOAT16, FLOAT16, FLOAT32, DType
from unshard.errors import UsageError
from unshard.formats.safetensors import safetensors_header
from unshard.index.checkpoint import Checkpoint
from unshard.index.companions import Companion
from unshard.plan.copy_plan import (
    CopyPlan,
    Omission,
    PlannedFile,
    Record,
    TargetTensor,
    whole_span,
)
from unshard.plan.small_files import copied, copied_companions, json_file

DEFAULT_MAX_FILE_BYTES = 5_000_000_000
TOKEN_IDS = {
    "bos_token_id": BOS_TOKEN_ID,
    "eos_token_id": EOS_TOKEN_ID,
    "pad_token_id": PAD_TOKEN_ID,
}
TORCH_NAMES = {FLOAT16: "float16", BFLOAT16: "bfloat16", FLOAT32: "float32"}
TOKENIZER_NAMES: Mapping[Companion, str] = {"vocab": "vocab.json", "merges": "merges.txt"}


def plan_safetensors(
    checkpoint: Checkpoint,
    max_file_bytes: int = DEFAULT_MAX_FILE_BYTES,
    dtype: DType | None = None,
) -> CopyPlan:
    """The plan that writes `checkpoint` as Hugging Face's OPT, at most `max_file_bytes` of
    tensors per file (a larger tensor gets a file of its own), weights cast to `dtype`.

    Raises:
        UsageError: `max_file_bytes` is not positive.
    """
    if max_file_bytes <= 0:
        raise UsageError(f"the largest file size must be positive, not {max_file_bytes}")
    rules = tensor_rules(checkpoint.config)
    named = {name: rules[name].hugging_face_name for name in checkpoint.index}
    sources = {name: checkpoint.index[name] for name, theirs in named.items() if theirs}
    targets = [copied(tensor, named[name], dtype) for name, tensor in sources.items()]
    companions, copies = copied_companions(checkpoint, TOKENIZER_NAMES)
    return CopyPlan(
        source=checkpoint.source,
        target="Hugging Face safetensors",
        sources=sources | {source.name: source for source in companions},
        files=(*_weight_files(targets, max_file_bytes), *_small_files(checkpoint, targets, copies)),
        weights=frozenset(sources),
        omissions=tuple(
            Omission(name, "a metaseq buffer, always 3; Hugging Face's OPT does not store it")
            for name, theirs in named.items()
            if theirs is None
        ),
        stored=checkpoint.stored,
    )


def _weight_files(tensors: Sequence[TargetTensor], max_file_bytes: int) -> Iterator[PlannedFile]:
    groups = _grouped(tensors, max_file_bytes)
    weight_map: dict[str, str] = {}
    for number, group in enumerate(groups, start=1):
        suffix = f"-{number:05d}-of-{len(groups):05d}" if len(groups) > 1 else ""
        file = _weight_file(f"model{suffix}.safetensors", group)
        weight_map |= {tensor.name: file.name for tensor in group}
        yield file
    if len(groups) > 1:
        total = sum(tensor.num_bytes for tensor in tensors)
        index = {"metadata": {"total_size": total}, "weight_map": weight_map}
        yield json_file("model.safetensors.index.json", index)


def _grouped(tensors: Sequence[TargetTensor], max_file_bytes: int) -> list[list[TargetTensor]]:
    groups: list[list[TargetTensor]] = [[]]
    size = 0
    for tensor in tensors:
        if groups[-1] and size + tensor.num_bytes > max_file_bytes:
            groups.append([])
            size = 0
        groups[-1].append(tensor)
        size += tensor.num_bytes
    return groups


def _weight_file(name: str, tensors: Sequence[TargetTensor]) -> PlannedFile:
    header = safetensors_header(
        ((tensor.name, tensor.dtype, tensor.shape) for tensor in tensors), {"format": "pt"}
    )
    spans = tuple(whole_span(tensor) for tensor in tensors)
    record = Record("tensors", 0, literal=header, spans=spans)
    return PlannedFile(name, "plain", (record,), record.num_bytes)


def _small_files(
    checkpoint: Checkpoint, tensors: Sequence[TargetTensor], copies: Sequence[PlannedFile]
) -> Iterator[PlannedFile]:
    config = checkpoint.config
    for name, content in model_files(config, tensors[0].dtype).items():
        yield json_file(name, content)
    yield from copies
    for name, content in (tokenizer_files(config) if copies else {}).items():
        yield json_file(name, content)


def model_files(config: OPTConfig, dtype: DType) -> dict[str, Mapping[str, Any]]:
    """The JSON files by name that say what the weights make, and what generates with them."""
    return {
        "config.json": hugging_face_config(config, dtype),
        "generation_config.json": TOKEN_IDS,
    }


def tokenizer_files(config: OPTConfig) -> dict[str, Mapping[str, Any]]:
    """The JSON files that lie beside a vocabulary and its merges."""
    return {
        "tokenizer_config.json": tokenizer_config(config),
        "special_tokens_map.json": SPECIAL_TOKENS,
    }


MODEL_FIELDS: Mapping[str, str] = {
    "activation": "activation_function",
    "pre_norm": "do_layer_norm_before",
    "ffn_dim": "ffn_dim",
    "hidden_size": "hidden_size",
    "max_positions": "max_position_embeddings",
    "num_heads": "num_attention_heads",
    "num_layers": "num_hidden_layers",
    "tied_embeddings": "tie_word_embeddings",
    "vocab_size": "vocab_size",
    "embedding_size": "word_embed_proj_dim",
}
"""Every field of `OPTConfig`, and its name in `config.json`."""


def hugging_face_config(config: OPTConfig, dtype: DType) -> dict[str, Any]:
    """`config.json` of transformers' `OPTForCausalLM`."""
    fields = {
        "architectures": ["OPTForCausalLM"],
        "model_type": "opt",
        "attention_dropout": 0.0,
        "dropout": 0.1,
        "enable_bias": True,
        "layer_norm_elementwise_affine": True,
        "prefix": "</s>",
        "torch_dtype": TORCH_NAMES.get(dtype, "float32"),
        **TOKEN_IDS,
        **{theirs: getattr(config, ours) for ours, theirs in MODEL_FIELDS.items()},
    }
    return dict(sorted(fields.items()))


SPECIAL_TOKENS = {
    "bos_token": "</s>",
    "eos_token": "</s>",
    "pad_token": "<pad>",
    "unk_token": "</s>",
}


def tokenizer_config(config: OPTConfig) -> dict[str, Any]:
    """`tokenizer_config.json`: GPT-2's byte-level BPE with `</s>` in front of every text."""
    return {
        "tokenizer_class": "GPT2Tokenizer",
        "add_bos_token": True,
        "add_prefix_space": False,
        "errors": "replace",
        "model_max_length": config.max_positions,
        **SPECIAL_TOKENS,
    }
