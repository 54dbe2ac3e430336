"""Which rank this process is, and its share of the machine."""

from __future__ import annotations

import ctypes
import os
import signal
from collections.abc import Mapping
from dataclasses import dataclass

from unshard.errors import UsageError

SILENCE_SECONDS = 300
"""How long a rank waits for another one that is alive but says nothing. A dead one's connections
close at once."""

_PR_SET_PDEATHSIG = 1


@dataclass(frozen=True, slots=True)
class Place:
    """One rank of a group, and where it stands on its machine."""

    rank: int
    size: int
    local_rank: int
    """Its number on this machine: the number of its GPU."""
    local_size: int
    """Ranks on this machine."""

    @property
    def is_beside_rank_0(self) -> bool:
        """Whether rank 0 is on this machine; a launcher numbers machine by machine."""
        return self.rank == self.local_rank

    @property
    def num_threads(self) -> int:
        """Its share of the machine's cores."""
        return max(1, len(os.sched_getaffinity(0)) // self.local_size)


def launched_place(environment: Mapping[str, str]) -> Place | None:
    """The place that `torchrun`, or what sets the same variables, gave this process; None where
    it was started by hand.

    Raises:
        UsageError: the variables are no place.
    """
    names = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    if not all(name in environment for name in names):
        return None
    try:
        rank, size = int(environment["RANK"]), int(environment["WORLD_SIZE"])
        local_rank = int(environment.get("LOCAL_RANK", rank))
        place = Place(rank, size, local_rank, int(environment.get("LOCAL_WORLD_SIZE", size)))
    except ValueError:
        raise _no_place(environment) from None
    if not (0 <= rank < size and 0 <= local_rank < place.local_size):
        raise _no_place(environment)
    return place


def _no_place(environment: Mapping[str, str]) -> UsageError:
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
    found = ", ".join(f"{name}={environment[name]}" for name in names if name in environment)
    return UsageError(
        f"the environment names no rank of a group: {found}",
        hint="start it with torchrun, or unset RANK to run by itself with --tp",
    )


def end_with_parent(parent: int) -> None:
    """Let the kernel kill this process as soon as process `parent` ends, however it ends."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:  # it ended before the kernel was asked
        os.kill(os.getpid(), signal.SIGKILL)
