"""Where ranks find each other before they are connected."""

from __future__ import annotations

import os
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path

from torch._C._distributed_c10d import FileStore, Store, TCPStore  # where torch declares the types

from unshard.errors import UsageError
from unshard.parallel.place import Place

__all__ = ["Store", "file_store", "join_seconds", "launched_store", "local_environment"]

JOIN_SECONDS = 300
"""How long ranks that were started on several hosts wait for each other."""


def local_environment(num_threads: int) -> dict[str, str]:
    """Variables for a rank whose group is all on this machine: its connections stay inside."""
    return {"GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": str(num_threads)}


def file_store(path: Path, size: int) -> Store:
    """Through a file that only this user can read, so that no port is open to others."""
    return FileStore(os.fspath(path), size)


def join_seconds(environment: Mapping[str, str]) -> float:
    """`JOIN_SECONDS`, or what UNSHARD_JOIN_SECONDS says.

    Raises:
        UsageError: it is no number above 0.
    """
    told = environment.get("UNSHARD_JOIN_SECONDS", str(JOIN_SECONDS))
    try:
        if 0 < (seconds := float(told)) < float("inf"):
            return seconds
    except ValueError:
        pass
    raise UsageError(f"UNSHARD_JOIN_SECONDS={told} is no number of seconds")


def launched_store(place: Place, environment: Mapping[str, str], seconds: float) -> Store:
    """The store at MASTER_ADDR and MASTER_PORT: torchrun's, or else rank 0's own.

    Raises:
        RuntimeError: it is not there within `seconds`, or the port is taken.
    """
    has_store = environment.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    return TCPStore(
        environment["MASTER_ADDR"],
        int(environment["MASTER_PORT"]),
        is_master=place.rank == 0 and not has_store,
        timeout=timedelta(seconds=seconds),
        wait_for_workers=False,
    )
