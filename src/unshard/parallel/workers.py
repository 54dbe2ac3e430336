"""The processes of the other ranks of this machine: started, watched, ended together."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence

from unshard.errors import WorkerLostError

END_SECONDS = 3
"""How long workers that were told to end may take, and this process once one was lost."""


class Workers:
    """Child processes, rank by rank, that end when this process does.

    The first one that ends before `dismiss` is `lost`: all others are killed at once, so that what
    waits for their answers fails.
    """

    def __init__(self, abandon: Callable[[WorkerLostError], None]) -> None:
        """`abandon` ends this process where it has not ended itself `END_SECONDS` after a loss;
        it is called in a thread of its own."""
        self._abandon = abandon
        self._processes: dict[int, subprocess.Popen[str]] = {}
        self._closing = False
        self._lock = threading.Lock()
        self._has_lost = threading.Event()
        self._on_lost: Callable[[], None] | None = None
        self.lost: WorkerLostError | None = None

    def start(
        self, rank: int, size: int, command: Sequence[str], environment: Mapping[str, str]
    ) -> None:
        """Start rank `rank` of `size`; call it in a thread that lasts: the kernel ends the child
        with it. What the child writes on stdout is why it ends."""
        # Its own session: Ctrl-C is for the parent, which ends its workers itself.
        process = subprocess.Popen(  # noqa: S603  (our own program)
            command,
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            text=True,
            errors="replace",
            start_new_session=True,
        )
        self._processes[rank] = process
        threading.Thread(target=self._watch, args=(rank, size, process), daemon=True).start()

    def check(self) -> None:
        """
        Raises:
            WorkerLostError: a worker ended.
        """
        if self.lost is not None:
            raise self.lost

    def wait_for_loss(self, seconds: float) -> WorkerLostError | None:
        """What was lost, if anything is within `seconds`."""
        self._has_lost.wait(seconds)
        return self.lost

    def on_loss(self, call: Callable[[], None] | None) -> None:
        """Call `call` once when a worker is lost, at once where one is already; None takes the
        wish back."""
        with self._lock:
            self._on_lost = call
            is_lost = self.lost is not None
        if is_lost and call is not None:
            call()

    def dismiss(self) -> None:
        """From now on the end of a worker is no loss."""
        with self._lock:
            self._closing = True

    def close(self) -> None:
        """Wait for all to end, kill those that do not. Idempotent."""
        self.dismiss()
        deadline = time.monotonic() + END_SECONDS
        for process in self._processes.values():
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(max(0.0, deadline - time.monotonic()))
        self.kill()

    def kill(self) -> None:
        """End all that still run, at once."""
        for process in self._processes.values():
            process.kill()
        for process in self._processes.values():
            process.wait()

    def _watch(self, rank: int, size: int, process: subprocess.Popen[str]) -> None:
        said = process.communicate()[0].strip()
        how = _how(process.returncode)
        with self._lock:
            if self._closing or self.lost is not None:
                return
            reason = f": {said.splitlines()[-1]}" if said else ""
            self.lost = WorkerLostError(f"rank {rank} of {size} {how}{reason}")
            call = self._on_lost
        self._has_lost.set()
        self.kill()
        if call is not None:
            call()
        time.sleep(END_SECONDS)
        if not self._closing:
            self._abandon(self.lost)


def _how(exit_code: int) -> str:
    if exit_code >= 0:
        return f"ended with exit code {exit_code}"
    try:
        return f"was ended by {signal.Signals(-exit_code).name}"
    except ValueError:
        return f"was ended by signal {-exit_code}"
