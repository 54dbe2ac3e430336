"""Whether the weights fit the memory, and what to do where they do not."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from unshard.engine.paged_cache import free_bytes
from unshard.errors import UsageError
from unshard.execute.mapped_tensors import map_tensors
from unshard.index.checkpoint import Checkpoint
from unshard.kernels.library import kernels
from unshard.library.precisions import Precision
from unshard.library.room import Weights, fate, mappable_weights, weight_bytes
from unshard.models.opt import OPTModel
from unshard.progress import Progress


def map_what_does_not_fit(
    checkpoint: Checkpoint, model: OPTModel, precision: Precision, progress: Progress
) -> Mapping[str, Tensor]:
    """Leaves the matrices of `model`, not yet filled, in the files if they exceed the free memory.

    Returns:
        What needs no filling, by canonical name.

    Raises:
        UsageError: they do, and the files have them in another dtype or in pieces.
    """
    if model.device.type != "cpu":
        return {}
    held = precision.held(by_native_kernels=kernels() is not None)
    needed = weight_bytes(checkpoint, held)
    free = free_bytes(model.device)
    if fate(needed, (), free) is Weights.IN_MEMORY:
        return {}
    sizes = f"{_gb(sum(needed.values()))} of weights exceed the {_gb(free)} of free memory"
    flat = map_tensors(mappable_weights(checkpoint.index, precision), model.dtype)
    mapped = {name: each.view(checkpoint.index[name].shape) for name, each in flat.items()}
    if fate(needed, mapped, free) is Weights.REFUSED:
        raise UsageError(
            f"{checkpoint.source}: {sizes}",
            hint="weights need no memory of their own where the file has them as they are computed "
            "with: `unshard reshard SRC DST --to safetensors --dtype bf16`, then --dtype bf16",
        )
    model.map_weights(mapped)
    progress.note(f"{sizes}: they stay in the files, read again where memory is short")
    return mapped


def _gb(num_bytes: int) -> str:
    return f"{num_bytes / 1e9:.1f} GB"
