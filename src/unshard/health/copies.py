"""Comparing the further copies of a tensor that other ranks store."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from unshard.execute.element_values import Bits
from unshard.tensors import TensorRef


@dataclass(slots=True)
class CopyDifference:
    """How one stored copy differs from the one that counts as the tensor."""

    replica: TensorRef
    num_elements: int = 0
    first_element: int = 0
    here: int = 0
    """Pattern of the first differing element in the tensor."""
    there: int = 0
    """Pattern of the same element in the copy."""

    def compare(self, start: int, mine: Bits, theirs: Bits) -> None:
        """Takes note of the differing elements of a block that begins at element `start`."""
        if np.array_equal(mine, theirs):
            return
        unequal = np.flatnonzero(mine != theirs)
        if not self.num_elements:
            first = int(unequal[0])
            self.first_element = start + first
            self.here, self.there = int(mine[first]), int(theirs[first])
        self.num_elements += unequal.size
