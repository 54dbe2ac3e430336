"""The weights of one tensor-parallel rank in memory, from files in any layout."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

from unshard.architectures.opt import tensor_rules
from unshard.errors import UsageError
from unshard.execute.workers import DEFAULT_WORKERS
from unshard.library.lazy_checkpoint import LazyCheckpoint
from unshard.library.lazy_checkpoint import open as open_lazily
from unshard.library.lazy_tensor import LazyTensor
from unshard.progress import Progress, Silent

if TYPE_CHECKING:
    from torch import Tensor

Names = Literal["metaseq", "huggingface"]


def load_state_dict(
    source: str | Path,
    tp_rank: int = 0,
    tp_size: int = 1,
    *,
    names: Names = "metaseq",
    workers: int = DEFAULT_WORKERS,
    progress: Progress | None = None,
) -> dict[str, Tensor]:
    """What rank `tp_rank` of `tp_size` holds, as new CPU tensors in the stored dtype.

    `names` are canonical metaseq names with K, V and Q apart, or those of Hugging Face's
    `OPTForCausalLM`, which has no place for the version buffer. Memory is the result's.

    Raises:
        UsageError: nothing is there, there is no such rank, or torch is not installed.
        FormatError: a file breaks its format or is shorter than its headers said.
        CheckpointError: files do not fit together, or a dimension does not divide.
    """
    if names not in get_args(Names):
        raise UsageError(
            f"unknown names {names!r}", hint=f"use one of {', '.join(get_args(Names))}"
        )
    checkpoint = open_lazily(source)
    local = checkpoint.local(tp_rank, tp_size)
    if names == "huggingface":
        local = _hugging_face(checkpoint, local)
    return _read(local, workers, progress or Silent())


def _hugging_face(
    checkpoint: LazyCheckpoint, local: dict[str, LazyTensor]
) -> dict[str, LazyTensor]:
    rules = tensor_rules(checkpoint.config)
    named = ((rules[name].hugging_face_name, tensor) for name, tensor in local.items())
    return {name: tensor for name, tensor in named if name is not None}


def _read(tensors: dict[str, LazyTensor], workers: int, progress: Progress) -> dict[str, Tensor]:
    def read(tensor: LazyTensor) -> Tensor:
        values = tensor.torch()
        progress.advance(tensor.nbytes)
        return values

    progress.start("load", sum(tensor.nbytes for tensor in tensors.values()))
    with ThreadPoolExecutor(workers) as pool:
        return dict(zip(tensors, pool.map(read, tensors.values()), strict=True))
