"""The first rank that was lost, and what follows from it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from unshard.errors import WorkerLostError

END_SECONDS = 3
"""How long ranks that were told to end may take, and this process once one was lost."""


class Watch:
    """Other ranks, of which the first that ends before `dismiss` is `lost`: what reaches the
    others is ended at once (`kill`), so that what waits for their answers fails."""

    def __init__(self, abandon: Callable[[WorkerLostError], None]) -> None:
        """`abandon` ends this process where it has not ended itself `END_SECONDS` after a loss;
        it is called in a thread of its own."""
        self._abandon = abandon
        self._closing = False
        self._lock = threading.Lock()
        self._has_lost = threading.Event()
        self._on_lost: Callable[[], None] | None = None
        self.lost: WorkerLostError | None = None

    def check(self) -> None:
        """
        Raises:
            WorkerLostError: a rank ended.
        """
        if self.lost is not None:
            raise self.lost

    def wait_for_loss(self, seconds: float) -> WorkerLostError | None:
        """What was lost, if anything is within `seconds`."""
        self._has_lost.wait(seconds)
        return self.lost

    def on_loss(self, call: Callable[[], None] | None) -> None:
        """Call `call` once when a rank is lost, at once where one is already; None takes the
        wish back."""
        with self._lock:
            self._on_lost = call
            is_lost = self.lost is not None
        if is_lost and call is not None:
            call()

    def dismiss(self) -> None:
        """From now on the end of a rank is no loss."""
        with self._lock:
            self._closing = True

    def close(self) -> None:
        """End all in peace. Idempotent."""
        raise NotImplementedError

    def kill(self) -> None:
        """End all at once."""
        raise NotImplementedError

    def _lose(self, message: str) -> None:
        """Call it in a thread that may last: it returns when this process is abandoned, or ends
        by itself."""
        with self._lock:
            if self._closing or self.lost is not None:
                return
            self.lost = WorkerLostError(message)
            call = self._on_lost
        self._has_lost.set()
        self.kill()
        if call is not None:
            call()
        time.sleep(END_SECONDS)
        if not self._closing:
            self._abandon(self.lost)


def broken_group(size: int, error: Exception) -> WorkerLostError:
    """What is known where a collective call failed and no rank was seen to end."""
    return WorkerLostError(f"the group of {size} ranks broke: {first_line(error)}")


def first_line(error: Exception) -> str:
    """What torch's errors say, without the stacks below it."""
    return str(error).strip().split("\n")[0]
