"""What a model needs of the ranks it is spread over."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor


class Group(Protocol):
    """Ranks that compute the same step, each on its slice; calls come in the same order on all."""

    @property
    def rank(self) -> int: ...

    @property
    def size(self) -> int: ...

    def sum(self, x: Tensor) -> Tensor:
        """The sum of all ranks' `x`, equal in shape, the same bits on every rank; `x` is given
        up."""

    def gather_columns(self, x: Tensor) -> Tensor:
        """On rank 0 all ranks' (R, n) side by side, (R, size * n); elsewhere `x`."""

    def least(self, number: int) -> int:
        """The least `number` of all ranks."""

    def meet(self) -> None:
        """Wait until every rank comes here, however long it takes."""


class Alone:
    """The group of one rank."""

    rank = 0
    size = 1

    def sum(self, x: Tensor) -> Tensor:
        return x

    def gather_columns(self, x: Tensor) -> Tensor:
        return x

    def least(self, number: int) -> int:
        return number

    def meet(self) -> None:
        """There is nobody else."""


ALONE = Alone()
