"""From a checkpoint's index to an engine that can generate."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from unshard.architectures.opt import tensor_rules
from unshard.engine.engine import Engine
from unshard.engine.graphs import Record, record_for
from unshard.engine.kept_memory import keep_freed_memory
from unshard.engine.offload import layers_away
from unshard.engine.paged_cache import PagedCache, default_cache_dtype, num_blocks_for_batch
from unshard.engine.room import map_what_does_not_fit
from unshard.engine.runner import Runner
from unshard.engine.tokenizer import Tokenizer
from unshard.errors import UsageError
from unshard.execute.model_sink import TORCH_DTYPES, fill_tensors
from unshard.index.checkpoint import Checkpoint
from unshard.kernels.attention import PagedAttention, suits
from unshard.kernels.library import kernels
from unshard.library.hugging_face_folder import check_tokenizer
from unshard.library.precisions import FP16, FP32, INT8, Precision
from unshard.library.room import table_dtype
from unshard.models.opt import OPTModel
from unshard.parallel.fill import fill_slices
from unshard.parallel.group import ALONE, Group
from unshard.progress import Progress, Silent


def load_engine(
    checkpoint: Checkpoint,
    *,
    precision: Precision = FP32,
    device: str = "cpu",
    max_batch: int = 8,
    cache_sequences: int | None = None,
    cpu_offload_gb: float = 0,
    enforce_eager: bool = False,
    progress: Progress | None = None,
) -> Engine:
    """An engine with the weights of `checkpoint`, computing in `precision` on `device`.

    At most `max_batch` sequences run at once. Their cache takes a quarter of the memory that is
    free once the weights are there, or less where `cache_sequences` of full length (`max_batch`)
    need less. What can be wrong without reading a weight is said first.

    Raises:
        UsageError: `precision` or `device` cannot compute, or the tokenizer is missing or is
            another model's, or the weights exceed the memory and cannot stay in the files.
        FormatError: a tokenizer file or a weight file is damaged.
    """
    check_computable(checkpoint, precision, device)
    tokenizer = load_tokenizer(checkpoint)
    runner = load_runner(
        checkpoint,
        precision=precision,
        device=device,
        cache_sequences=cache_sequences or max_batch,
        cpu_offload_gb=cpu_offload_gb,
        enforce_eager=enforce_eager,
        progress=progress,
    )
    return Engine(runner, tokenizer, max_batch)


def check_computable(checkpoint: Checkpoint, precision: Precision, device: str) -> None:
    """
    Raises:
        UsageError: `precision` or `device` cannot compute the model.
    """
    torch_device = _torch_device(device)
    if precision is FP16 and torch_device.type == "cpu":
        raise UsageError("fp16 does not compute on a CPU", hint="use fp32 or bf16")
    activation = checkpoint.config.activation
    if activation != "relu":
        raise UsageError(
            f"{checkpoint.source}: its activation is {activation}, and only relu is computed"
        )


def load_tokenizer(checkpoint: Checkpoint) -> Tokenizer:
    """The tokenizer beside the weights.

    Raises:
        UsageError: it is missing or is another model's.
        FormatError: a tokenizer file is damaged.
    """
    tokenizer, config = _tokenizer(checkpoint), checkpoint.config
    if tokenizer.vocab_size > config.vocab_size:
        raise UsageError(
            f"{checkpoint.folder}: the tokenizer has ids up to {tokenizer.vocab_size - 1}, "
            f"the model a vocabulary of {config.vocab_size}",
            hint="put the tokenizer files that belong to this checkpoint beside it",
        )
    return tokenizer


def load_runner(
    checkpoint: Checkpoint,
    *,
    precision: Precision,
    device: str,
    cache_sequences: int,
    cpu_offload_gb: float = 0,
    enforce_eager: bool = False,
    progress: Progress | None = None,
    group: Group = ALONE,
) -> Runner:
    """The model, or of a group the slice that is `group.rank`'s, with its cache. As many layers as
    `cpu_offload_gb` GiB hold stay in the host's memory. Steps are recorded where they can be,
    unless `enforce_eager`.

    Raises:
        UsageError: those would save nothing.
        FormatError: a weight file is damaged.
    """
    where = _torch_device(device)
    model = OPTModel(
        checkpoint.config,
        TORCH_DTYPES[precision.exact],
        where,
        group,
        matrix_bits=precision.matrix_bits,
        table_dtype=TORCH_DTYPES[table_dtype(checkpoint, precision)],
        num_away=layers_away(checkpoint, precision, where, group.size, cpu_offload_gb),
    )
    _fill(model, checkpoint, precision, progress or Silent())
    model.finalize()
    if where.type == "cpu":
        keep_freed_memory()  # not before: what filling freed is not wanted again
    group.meet()
    record = None if enforce_eager else record_for(model)
    return _runner(model, cache_sequences, record, is_int8=precision is INT8)


def _fill(
    model: OPTModel, checkpoint: Checkpoint, precision: Precision, progress: Progress
) -> None:
    group = model.group
    if group.size == 1:
        mapped = map_what_does_not_fit(checkpoint, model, precision, progress)
        targets = {
            name: target
            for name, target in model.weight_targets().items()
            if target is not mapped.get(name)
        }
        fill_tensors(checkpoint.index, targets, progress)
        return
    slices, rules = model.weight_targets(), tensor_rules(checkpoint.config)
    placements = {name: rules[name].placement for name in slices}
    fill_slices(checkpoint.index, placements, slices, group.rank, group.size, progress)


def _runner(
    model: OPTModel, cache_sequences: int, record: Record | None, *, is_int8: bool
) -> Runner:
    """With the native kernels where they are compiled. Theirs is a cache of the model's dtype, or
    for 8-bit weights of bf16: in fp32 it would soon be more to read than the weights."""
    dtype, device, size = model.dtype, model.device, model.group.size
    config = replace(
        model.config,
        hidden_size=model.config.hidden_size // size,
        num_heads=model.config.num_heads // size,
    )
    is_native = kernels() is not None and suits(config.head_dim, device)
    native_dtype = torch.bfloat16 if is_int8 else dtype
    cache_dtype = native_dtype if is_native else default_cache_dtype(dtype, device)
    # Ranks on CPUs share the memory that each of them finds free.
    counted = model.config if device.type == "cpu" else config
    num_blocks = num_blocks_for_batch(counted, cache_sequences, cache_dtype, device)
    num_blocks = model.group.least(num_blocks)
    cache = PagedCache(config, num_blocks, cache_dtype, device)
    return Runner(model, cache, PagedAttention if is_native else None, record)


def _tokenizer(checkpoint: Checkpoint) -> Tokenizer:
    check_tokenizer(checkpoint)
    vocab, merges = checkpoint.companions["vocab"], checkpoint.companions["merges"]
    return Tokenizer.from_files(Path(vocab.path), Path(merges.path))


def _torch_device(name: str) -> torch.device:
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UsageError(f"unknown device {name!r}", hint="use cpu, cuda or cuda:N") from error
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UsageError(
            f"there is no device {name!r}: {torch.cuda.device_count()} CUDA devices are visible",
            hint="use cpu",
        )
    if device.type not in {"cpu", "cuda"}:
        raise UsageError(f"OPT does not run on device {name!r}", hint="use cpu, cuda or cuda:N")
    return device
