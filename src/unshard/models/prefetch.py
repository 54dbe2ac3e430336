"""Layers whose weights stay in the host's memory and are fetched ahead of their turn."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Generic, Protocol, TypeVar

from torch import Tensor

from unshard.models.copies import Copier, Copy


class Layer(Protocol):
    """One of several that differ in their numbers alone."""

    def tensors(self) -> list[Tensor]:
        """All memory of its weights, in the same order in each."""


AnyLayer = TypeVar("AnyLayer", bound=Layer)


def spread(num_away: int, num_layers: int) -> frozenset[int]:
    """Which of the layers are away: as far apart as can be, so that each is fetched while those
    before it compute."""
    return frozenset(
        number
        for number in range(num_layers)
        if (number + 1) * num_away // num_layers > number * num_away // num_layers
    )


class Prefetch(Generic[AnyLayer]):
    """Layers in their order, step after step; those that are away are copied into two rooms by
    turns.

    While a layer computes in one room the next is copied into the other, the first of the next
    step while this one ends.
    """

    def __init__(
        self,
        layers: Sequence[AnyLayer],
        away: frozenset[int],
        rooms: tuple[AnyLayer, AnyLayer],
        copier: Copier,
    ) -> None:
        """`layers` by number, those of `away` in the host's memory; what `rooms` hold is
        overwritten."""
        self._layers = layers
        self._away = sorted(away)
        self._rooms = [_Room(room, copier) for room in rooms]
        self._turn = 0

    def __iter__(self) -> Iterator[AnyLayer]:
        """One step. A layer is valid until the next is asked for."""
        turns = {number: turn for turn, number in enumerate(self._away)}
        for number, layer in enumerate(self._layers):
            if number not in turns:
                yield layer
                continue
            room = self._rooms[self._turn % 2]
            self._fetch(room, turns[number])  # only the first time, and after a step that failed
            self._fetch(self._rooms[(self._turn + 1) % 2], turns[number] + 1)
            yield room.arrived()
            self._fetch(room, turns[number] + 2)
            self._turn += 1

    def _fetch(self, room: _Room[AnyLayer], turn: int) -> None:
        number = self._away[turn % len(self._away)]
        room.fetch(number, self._layers[number])


class _Room(Generic[AnyLayer]):
    """Memory of the device for one layer."""

    def __init__(self, layer: AnyLayer, copier: Copier) -> None:
        self._layer = layer
        self._copier = copier
        self._holds: int | None = None
        self._coming: Copy | None = None

    def fetch(self, number: int, layer: AnyLayer) -> None:
        """Begin to copy `layer` here, unless it is here or on its way."""
        if self._holds != number:
            self._holds = number
            self._coming = self._copier.begin(layer.tensors(), self._layer.tensors())

    def arrived(self) -> AnyLayer:
        """The layer, once it is here."""
        if self._coming is not None:
            self._coming.arrive()
            self._coming = None
        return self._layer
