"""Boxes of a tensor as pure integers."""

from __future__ import annotations

from dataclasses import dataclass

from unshard.tensors import Shape


@dataclass(frozen=True, slots=True)
class Box:
    """The elements `[offsets, offsets + sizes)` of a tensor, dimension by dimension."""

    offsets: Shape
    sizes: Shape

    @property
    def ends(self) -> Shape:
        return tuple(start + size for start, size in zip(self.offsets, self.sizes, strict=True))


def whole(shape: Shape) -> Box:
    """The box of a whole tensor."""
    return Box((0,) * len(shape), shape)
