"""Where ranks find each other before they are connected."""

from __future__ import annotations

import os
from datetime import timedelta
from pathlib import Path

from torch._C._distributed_c10d import FileStore, Store  # where torch declares the types
from torch.distributed.rendezvous import rendezvous

from unshard.parallel.place import SILENCE_SECONDS

__all__ = ["Store", "file_store", "launched_store", "local_environment"]


def local_environment(num_threads: int) -> dict[str, str]:
    """Variables for a rank whose group is all on this machine: its connections stay inside."""
    return {"GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": str(num_threads)}


def file_store(path: Path, size: int) -> Store:
    """Through a file that only this user can read, so that no port is open to others."""
    return FileStore(os.fspath(path), size)


def launched_store() -> Store:
    """As the environment says: MASTER_ADDR and MASTER_PORT."""
    timeout = timedelta(seconds=SILENCE_SECONDS)
    store: Store
    store, _, _ = next(rendezvous("env://", timeout=timeout))
    return store
