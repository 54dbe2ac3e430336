"""How many layers' weights stay in the host's memory."""

from __future__ import annotations

import torch

from unshard.errors import UsageError
from unshard.index.checkpoint import Checkpoint
from unshard.library.fitting import ROOMS
from unshard.library.precisions import Precision
from unshard.library.room import weight_bytes


def layers_away(
    checkpoint: Checkpoint, precision: Precision, device: torch.device, size: int, gib: float
) -> int:
    """As many as `gib` GiB of the host's memory hold, of what one of `size` ranks has.

    Raises:
        UsageError: there is no other memory than the host's, or so few layers save nothing.
    """
    if not gib:
        return 0
    if device.type != "cuda":
        raise UsageError(
            f"--cpu-offload-gb is for GPUs, and --device is {device}", hint="leave it away"
        )
    prefix = "decoder.layers.0."
    found = weight_bytes(checkpoint, precision.held(by_native_kernels=False))
    layer_gib = sum(b for name, b in found.items() if name.startswith(prefix)) / size / (1 << 30)
    number = min(int(gib / layer_gib), checkpoint.config.num_layers)
    if number <= ROOMS:
        raise UsageError(
            f"--cpu-offload-gb {gib:g} holds {number} layers of {layer_gib:.3g} GiB, and two more "
            "take their place on the device",
            hint=f"give {(ROOMS + 1) * layer_gib:.3g} or more",
        )
    return number
