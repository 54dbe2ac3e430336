"""What a manifest says, whatever form it was written in."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

HEX_DIGITS = {"md5": 32, "sha256": 64}
"""The algorithms that manifests may use, by the length of what they give."""

_NUMBER = re.compile(r"([0-9]{1,9})")


@dataclass(frozen=True, slots=True)
class Digest:
    """A hash of a file's bytes: a `hashlib` algorithm and lower-case hex."""

    algorithm: str
    value: str

    def __str__(self) -> str:
        return f"{self.algorithm} {self.value}"


class Manifest(Mapping[str, Digest]):
    """File names and their digests, in the order of `source` (the path it was read from).

    `sizes` has the lengths in bytes of those files whose length the manifest knows.
    """

    def __init__(
        self,
        digests: Mapping[str, Digest],
        source: str,
        sizes: Mapping[str, int] | None = None,
    ) -> None:
        self._digests = dict(digests)
        self.source = source
        self.sizes = dict(sizes or {})

    def __getitem__(self, name: str) -> Digest:
        return self._digests[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._digests)

    def __len__(self) -> int:
        return len(self._digests)

    def only(self, names: Iterable[str]) -> Manifest:
        """The part of it that is about `names`."""
        digests = {name: self._digests[name] for name in names}
        sizes = {name: self.sizes[name] for name in digests if name in self.sizes}
        return Manifest(digests, self.source, sizes)

    def shared_digests(self) -> tuple[tuple[str, ...], ...]:
        """The names that have one digest between them, group by group.

        Files of different weights never do, so a manifest with such a group is most likely
        wrong about all but one of it: Meta's list for OPT-66B gives parts 5 and 6 one md5.
        """
        names: dict[Digest, list[str]] = {}
        for name, digest in self._digests.items():
            names.setdefault(digest, []).append(name)
        return tuple(tuple(group) for group in names.values() if len(group) > 1)

    def skipped_names(self) -> tuple[str, ...]:
        """The names that its numbering skips: `part-3-shard17` where it has all others.

        Names that differ in their numbers alone are a grid, from the lowest to the highest of
        each number. One that is mostly holes (steps of a training run) is none.
        """
        grids: dict[tuple[str, ...], list[tuple[str, ...]]] = {}
        for name in self._digests:
            pieces = _NUMBER.split(name)
            grids.setdefault(tuple(pieces[::2]), []).append(tuple(pieces[1::2]))
        return tuple(
            name
            for words, numbers in grids.items()
            for name in _skipped(words, numbers)
            if name not in self._digests
        )


def _skipped(words: tuple[str, ...], numbers: list[tuple[str, ...]]) -> Iterator[str]:
    """Every name of the grid that `numbers` span between `words`; none if it is no grid."""
    axes = []
    for texts in zip(*numbers, strict=True):
        values = [int(text) for text in texts]
        width = len(texts[0]) if any(text.startswith("0") for text in texts) else 0
        axes.append((range(min(values), max(values) + 1), width))
    if not axes or math.prod(len(axis) for axis, _ in axes) >= 2 * len(numbers):
        return
    for place in itertools.product(*(axis for axis, _ in axes)):
        shown = [f"{value:0{width}}" for value, (_, width) in zip(place, axes, strict=True)]
        yield "".join(itertools.chain(*zip(words, [*shown, ""], strict=True)))
