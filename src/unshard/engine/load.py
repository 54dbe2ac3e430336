"""From a checkpoint's index to an engine that can generate."""

from __future__ import annotations

from pathlib import Path

import torch

from unshard.dtypes import BFLOAT16, FLOAT16, FLOAT32, INT8, DType
from unshard.engine.engine import Engine
from unshard.engine.paged_cache import PagedCache, default_cache_dtype, num_blocks_for_batch
from unshard.engine.room import map_what_does_not_fit
from unshard.engine.runner import Runner
from unshard.engine.tokenizer import Tokenizer
from unshard.errors import UsageError
from unshard.execute.model_sink import fill_tensors
from unshard.index.checkpoint import Checkpoint
from unshard.kernels.attention import paged_attention, suits
from unshard.kernels.library import kernels
from unshard.models.opt import OPTModel
from unshard.progress import Progress, Silent

_TORCH_DTYPES = {
    FLOAT32: torch.float32,
    BFLOAT16: torch.bfloat16,
    FLOAT16: torch.float16,
    INT8: torch.float32,  # of what is not rounded to 8 bits
}


def load_engine(
    checkpoint: Checkpoint,
    *,
    dtype: DType = FLOAT32,
    device: str = "cpu",
    max_batch: int = 8,
    cache_sequences: int | None = None,
    progress: Progress | None = None,
) -> Engine:
    """An engine with the weights of `checkpoint`, computing in `dtype` on `device`.

    At most `max_batch` sequences run at once. Their cache takes a quarter of the memory that is
    free once the weights are there, or less where `cache_sequences` of full length (`max_batch`)
    need less. What can be wrong without reading a weight is said first.

    Raises:
        UsageError: `dtype` or `device` cannot compute, or the tokenizer is missing or is
            another model's, or the weights exceed the memory and cannot stay in the files.
        FormatError: a tokenizer file or a weight file is damaged.
    """
    torch_dtype, torch_device = _torch_dtype(dtype), _torch_device(device)
    if dtype is FLOAT16 and torch_device.type == "cpu":
        raise UsageError("fp16 does not compute on a CPU", hint="use fp32 or bf16")
    config = checkpoint.config
    if config.activation != "relu":
        raise UsageError(
            f"{checkpoint.source}: its activation is {config.activation}, and only relu is computed"
        )
    tokenizer = _tokenizer(checkpoint)
    if tokenizer.vocab_size > config.vocab_size:
        raise UsageError(
            f"{checkpoint.folder}: the tokenizer has ids up to {tokenizer.vocab_size - 1}, "
            f"the model a vocabulary of {config.vocab_size}",
            hint="put the tokenizer files that belong to this checkpoint beside it",
        )
    model = OPTModel(config, torch_dtype, torch_device, int8=dtype is INT8)
    progress = progress or Silent()
    mapped = map_what_does_not_fit(checkpoint, model, progress)
    targets = {
        name: target
        for name, target in model.weight_targets().items()
        if target is not mapped.get(name)
    }
    fill_tensors(checkpoint.index, targets, progress)
    model.finalize()
    return Engine(_runner(model, cache_sequences or max_batch), tokenizer, max_batch)


def _runner(model: OPTModel, cache_sequences: int) -> Runner:
    """With the native kernels where they are compiled. Theirs is a cache of the model's dtype."""
    config, dtype, device = model.config, model.dtype, model.device
    is_native = kernels() is not None and suits(config.head_dim, device)
    cache_dtype = dtype if is_native else default_cache_dtype(dtype, device)
    num_blocks = num_blocks_for_batch(config, cache_sequences, cache_dtype, device)
    cache = PagedCache(config, num_blocks, cache_dtype, device)
    return Runner(model, cache, paged_attention if is_native else None)


def _tokenizer(checkpoint: Checkpoint) -> Tokenizer:
    vocab, merges = (checkpoint.companions.get(companion) for companion in ("vocab", "merges"))
    if vocab is None or merges is None:
        raise UsageError(
            f"{checkpoint.folder}: has no tokenizer",
            hint="put gpt2-vocab.json and gpt2-merges.txt beside the weights",
        )
    return Tokenizer.from_files(Path(vocab.path), Path(merges.path))


def _torch_dtype(dtype: DType) -> torch.dtype:
    if dtype not in _TORCH_DTYPES:
        names = ", ".join(known.name for known in _TORCH_DTYPES)
        raise UsageError(f"OPT does not compute in {dtype.name}", hint=f"use one of {names}")
    return _TORCH_DTYPES[dtype]


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
