"""Where a tensor sits in the stack, by its canonical name."""

from __future__ import annotations

import re

LAYER = re.compile(r"^decoder\.layers\.(\d{1,9})\.(.+)$")


def split_layer(name: str) -> tuple[int | None, str]:
    """Number of the layer and the name inside it; None and the whole name outside all layers."""
    match = LAYER.match(name)
    return (int(match[1]), match[2]) if match else (None, name)
