"""How often each bit pattern occurs in a tensor: all that its statistics need."""

from __future__ import annotations

import numpy as np

from unshard.execute.element_values import Bits
from unshard.health.float_formats import NUM_BINS, FloatFormat


class BitHistogram:
    """Counts of the 65536 bins of one tensor, filled block by block. Not for several threads.

    `np.bincount` over blocks of 1 MiB was the fastest of what numpy offers (docs/health.md).
    """

    def __init__(self, form: FloatFormat) -> None:
        self.format = form
        self.counts = np.zeros(NUM_BINS, np.int64)
        self.num_nan = self.num_infinite = self.num_zero = 0
        self.minimum, self.maximum = np.inf, -np.inf
        """Of the finite values; kept for formats whose bins are wider than a value."""

    def add(self, bits: Bits, magnitudes: Bits) -> int:
        """Counts a block; returns its largest magnitude as a pattern.

        `magnitudes` are `bits` without their signs.
        """
        high = bits
        if self.format.bin_shift:
            high = bits.view("<u2")[self.format.dtype.itemsize_bytes // 2 - 1 :: bits.itemsize // 2]
        self.counts += np.bincount(high, minlength=NUM_BINS)
        largest = int(magnitudes.max())
        if largest >= self.format.infinity:
            self._count_not_finite(magnitudes)
        if self.format.bin_shift:
            self._measure(bits, magnitudes, largest)
        return largest

    def _count_not_finite(self, magnitudes: Bits) -> None:
        self.num_nan += int(np.count_nonzero(magnitudes > self.format.infinity))
        self.num_infinite += int(np.count_nonzero(magnitudes == self.format.infinity))

    def _measure(self, bits: Bits, magnitudes: Bits, largest: int) -> None:
        """What wide bins do not tell: exact zeros and extremes."""
        self.num_zero += magnitudes.size - int(np.count_nonzero(magnitudes))
        if largest >= self.format.infinity:
            bits = bits[magnitudes < self.format.infinity]
        if bits.size:
            values = bits.view(self.format.dtype.numpy)
            self.minimum = min(self.minimum, float(values.min()))
            self.maximum = max(self.maximum, float(values.max()))
