"""Boxes of a tensor as pure integers: where two of them overlap."""

from __future__ import annotations

from dataclasses import dataclass

from unshard.tensors import Shape


@dataclass(frozen=True, slots=True)
class Box:
    """The elements `[offsets, offsets + sizes)` of a tensor, dimension by dimension."""

    offsets: Shape
    sizes: Shape

    def overlap(self, other: Box) -> Box | None:
        """The elements in both boxes, or None when there are none."""
        starts = tuple(map(max, self.offsets, other.offsets))
        ends = tuple(map(min, self.ends, other.ends))
        sizes = tuple(end - start for start, end in zip(starts, ends, strict=True))
        return Box(starts, sizes) if min(sizes, default=1) > 0 else None

    def relative_to(self, origin: Shape) -> Box:
        """The same box counted from `origin`."""
        moved = (mine - zero for mine, zero in zip(self.offsets, origin, strict=True))
        return Box(tuple(moved), self.sizes)

    @property
    def ends(self) -> Shape:
        return tuple(start + size for start, size in zip(self.offsets, self.sizes, strict=True))


def whole(shape: Shape) -> Box:
    """The box of a whole tensor."""
    return Box((0,) * len(shape), shape)
