"""Hugging Face's OPT: safetensors or `pytorch_model.bin`, with `config.json` beside them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from unshard.architectures.opt import (
    EMBEDDING,
    VERSION_BUFFER,
    OPTConfig,
    TensorRule,
    tensor_rules,
)
from unshard.errors import CheckpointError
from unshard.formats.safetensors import read_safetensors
from unshard.formats.torch_zip import read_torch_file, tensors_of
from unshard.index.checkpoint import Checkpoint, Layout
from unshard.index.companions import find_companions
from unshard.index.hugging_face_config import read_config
from unshard.index.part import stored_bytes
from unshard.index.sources import Source
from unshard.index.weight_files import read_weight_index
from unshard.placement import finest_cut
from unshard.tensors import Chunk, Ledger, LogicalTensor, TensorIndex, TensorRef

PREFIX = "model."
OUTPUT = "lm_head.weight"
EMBEDDING_NAME = "model.decoder.embed_tokens.weight"


def open_hugging_face(source: Source) -> Checkpoint:
    """Opens a checkpoint whose files hold tensors by Hugging Face's names.

    Raises:
        CheckpointError: a tensor is missing, unknown, of a wrong shape, stored twice, or not
            where the index file says.
        FormatError: a file breaks its format.
    """
    config = read_config(source.folder / "config.json")
    stored = _stored(source)
    index, output = _index(source.text, config, stored)
    layout = Layout(
        kind="huggingface",
        tp_size=1,
        fsdp_size=1,
        fused_qkv=False,
        files=source.files,
        evidence=(*_files_evidence(source), *source.notes, output),
    )
    return Checkpoint(
        source=source.text,
        folder=source.folder,
        layout=layout,
        config=config,
        index=index,
        metadata=(),
        units=tuple((name,) for name in index),
        companions=find_companions(source.folder),
    )


def _files_evidence(source: Source) -> tuple[str, ...]:
    kind = "safetensors" if source.is_safetensors else "torch archives of tensors by name"
    by = f", chosen by {source.weight_index.name}" if source.weight_index else ""
    return (
        f"{len(source.files)} file{'s' if len(source.files) > 1 else ''} of {kind}{by}",
        "config.json says model_type opt",
    )


def _stored(source: Source) -> dict[str, TensorRef]:
    """Every stored tensor by its name in `OPTForCausalLM`."""
    weight_map = read_weight_index(source.weight_index) if source.weight_index else {}
    stored: dict[str, TensorRef] = {}
    for path in source.files:
        tensors = _tensors(path)
        for name, file in weight_map.items():
            if file == path.name and name not in tensors:
                raise CheckpointError(f"{path}: has no tensor {name}, which the index says it has")
        for name, ref in tensors.items():
            full = _full_name(name)
            if full in stored:
                raise CheckpointError(f"{path}: tensor {name} is also in another file")
            stored[full] = ref
    return stored


def _tensors(path: Path) -> dict[str, TensorRef]:
    if path.suffix == ".safetensors":
        return read_safetensors(path)
    file = read_torch_file(path)
    return {ref.name: ref for ref in tensors_of(file, file.content, "the state dict")}


def _full_name(name: str) -> str:
    """`OPTModel` saves names without the prefix that `OPTForCausalLM` gives them."""
    return name if name == OUTPUT or name.startswith(PREFIX) else PREFIX + name


def _index(source: str, config: OPTConfig, stored: dict[str, TensorRef]) -> tuple[TensorIndex, str]:
    """The index, and a sentence on the output projection."""
    copy, output = _take_copy(config, stored)
    if config.num_layers > len(stored):
        raise CheckpointError(f"{source}: has {len(stored)} tensors for {config.num_layers} layers")
    rules = {
        rule.hugging_face_name or PREFIX + rule.name: rule for rule in tensor_rules(config).values()
    }
    for name in sorted(rules.keys() - stored.keys() - {PREFIX + VERSION_BUFFER}):
        raise CheckpointError(
            f"{source}: tensor {name} is missing", hint="are all files of the index here?"
        )
    for name in sorted(stored.keys() - rules.keys()):
        raise CheckpointError(f"{source}: tensor {name} is not part of an OPT model")
    tensors = {
        rule.name: replace(
            _logical(source, rule, stored[name], copy if rule.name == EMBEDDING else None),
            cut=finest_cut(rule.shape, rule.placement, config.num_heads),
        )
        for name, rule in rules.items()
        if name in stored
    }
    total = stored_bytes([*stored.values(), *([copy] if copy else [])])
    unique = sum(tensor.num_bytes for tensor in tensors.values())
    return TensorIndex(tensors, Ledger(total, unique, total - unique, padding_bytes=0)), output


def _take_copy(config: OPTConfig, stored: dict[str, TensorRef]) -> tuple[TensorRef | None, str]:
    """The stored copy of a tied embedding, taken out of `stored`, and a sentence on it.

    Some writers keep one name only of tensors that share their bytes, and not always the
    embedding's.
    """
    if not config.tied_embeddings:
        return None, "the output projection has weights of its own: tie_word_embeddings is false"
    tied = "the output projection is tied by config.json"
    copy = stored.pop(OUTPUT, None)
    embedding = stored.setdefault(EMBEDDING_NAME, copy) if copy else stored.get(EMBEDDING_NAME)
    if copy is None or embedding is None:
        return None, f"{tied} and stored once"
    if copy.ranges == embedding.ranges:
        return None, f"{tied} and its bytes are stored once"
    return copy, f"{tied}; the stored copy, {OUTPUT}, is compared"


def _logical(
    source: str, rule: TensorRule, ref: TensorRef, copy: TensorRef | None
) -> LogicalTensor:
    for each in (ref, copy) if copy else (ref,):
        if each.shape != rule.shape or each.dtype != ref.dtype:
            raise CheckpointError(
                f"{source}: tensor {each.name} is {each.dtype.name} {each.shape}, not "
                f"{ref.dtype.name} {rule.shape}"
            )
    chunk = Chunk((0,) * len(rule.shape), ref)
    return LogicalTensor(rule.name, ref.dtype, rule.shape, (chunk,), (copy,) if copy else ())
