"""When to try again after the network failed."""

from __future__ import annotations

import random
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How often and how soon one file is asked for again.

    `attempts` counts failures in a row without one new byte. Delays are in seconds, double
    each time up to `longest_delay_s` and are drawn between half and all of that, so that
    connections cut together do not come back together.
    """

    attempts: int = 10
    first_delay_s: float = 1.0
    longest_delay_s: float = 60.0

    def delay_s(self, failures: int, retry_after_s: float | None) -> float:
        """Seconds to wait after failure number `failures` (from 1) in a row.

        The server's own wish counts, up to ten times `longest_delay_s`.
        """
        if retry_after_s is not None:
            return min(retry_after_s, 10 * self.longest_delay_s)
        delay = min(self.first_delay_s * 2.0 ** (failures - 1), self.longest_delay_s)
        return delay * random.uniform(0.5, 1)  # noqa: S311 - spreads load, guards nothing
