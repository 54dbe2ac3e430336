"""The processes of the other ranks of this machine: started, watched, ended together."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence

from unshard.errors import WorkerLostError
from unshard.parallel import watch
from unshard.parallel.watch import Watch


class Workers(Watch):
    """Child processes, rank by rank, that end when this process does."""

    def __init__(self, abandon: Callable[[WorkerLostError], None]) -> None:
        super().__init__(abandon)
        self._processes: dict[int, subprocess.Popen[str]] = {}

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

    def close(self) -> None:
        """Wait for all to end, kill those that do not. Idempotent."""
        self.dismiss()
        deadline = time.monotonic() + watch.END_SECONDS
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
        reason = f": {said.splitlines()[-1]}" if said else ""
        self._lose(f"rank {rank} of {size} {_how(process.returncode)}{reason}")


def _how(exit_code: int) -> str:
    if exit_code >= 0:
        return f"ended with exit code {exit_code}"
    try:
        return f"was ended by {signal.Signals(-exit_code).name}"
    except ValueError:
        return f"was ended by signal {-exit_code}"
