"""When to try again after the network failed, and how often in all."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from unshard.download.response import InterruptedTransferError
from unshard.errors import TransferError

T = TypeVar("T")

BYTES_TO_EARN = 2**20
"""So many good bytes make up for one failure."""


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How often and how soon files are asked for again.

    `attempts` counts failures of one file in a row without one new byte, `budget` those of all
    files that no good bytes have made up for. Delays are in seconds, double
    each time up to `longest_delay_s` and are drawn between half and all of that, so that
    connections cut together do not come back together.
    """

    attempts: int = 10
    first_delay_s: float = 1.0
    longest_delay_s: float = 60.0
    budget: int = 256

    def delay_s(self, failures: int, retry_after_s: float | None) -> float:
        """Seconds to wait after failure number `failures` (from 1) in a row.

        The server's own wish counts, up to ten times `longest_delay_s`.
        """
        if retry_after_s is not None:
            return min(retry_after_s, 10 * self.longest_delay_s)
        delay = min(self.first_delay_s * 2.0 ** (failures - 1), self.longest_delay_s)
        return delay * random.uniform(0.5, 1)  # noqa: S311 - spreads load, guards nothing


def ask_again(
    ask: Callable[[], T],
    name: str,
    retry: RetryPolicy,
    sleep: Callable[[float], None],
    *,
    hint: str | None = None,
) -> T:
    """What `ask` returns, once it does; `name` is what it asks for, all or nothing.

    Raises:
        TransferError: it failed `retry.attempts` times.
        Exception: what else `ask` or `sleep` raises.
    """
    failures = 0
    while True:
        try:
            return ask()
        except InterruptedTransferError as error:
            failures += 1
            if failures >= retry.attempts:
                raise TransferError(
                    f"{name}: given up after {failures} attempts: {error.message}", hint=hint
                ) from None
            sleep(retry.delay_s(failures, error.retry_after_s))


class BudgetSpentError(TransferError):
    """The network fails so often that the download gets nowhere."""


class RetryBudget:
    """The failures that a whole download may still meet. Safe to use from many threads."""

    def __init__(self, policy: RetryPolicy) -> None:
        self._most_bytes = policy.budget * BYTES_TO_EARN
        self._left_bytes = self._most_bytes
        self._lock = threading.Lock()

    def earn(self, num_bytes: int) -> None:
        """`num_bytes` came and are kept."""
        with self._lock:
            self._left_bytes = min(self._left_bytes + num_bytes, self._most_bytes)

    def spend(self, problem: TransferError) -> None:
        """A request failed with `problem`.

        Raises:
            BudgetSpentError: it was one too many.
        """
        with self._lock:
            self._left_bytes -= BYTES_TO_EARN
            is_spent = self._left_bytes < 0
        if is_spent:
            raise BudgetSpentError(
                f"{problem.message}: the last of so many failures of all files together that "
                "this gets nowhere",
                hint="run the same command again, later or with fewer --max-connections: it "
                "continues from here",
            )
