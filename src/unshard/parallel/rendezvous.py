"""Where ranks find each other before they are connected."""

from __future__ import annotations

import os
from datetime import timedelta
from pathlib import Path

import torch.distributed as dist

from unshard.parallel.place import SILENCE_SECONDS


def local_environment(num_threads: int) -> dict[str, str]:
    """Variables for a rank whose group is all on this machine: its connections stay inside."""
    return {"GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": str(num_threads)}


def file_store(path: Path, size: int) -> dist.Store:
    """Through a file that only this user can read, so that no port is open to others."""
    store: dist.Store = dist.FileStore(os.fspath(path), size)
    return store


def launched_store() -> dist.Store:
    """As the environment says: MASTER_ADDR and MASTER_PORT."""
    timeout = timedelta(seconds=SILENCE_SECONDS)
    store, _, _ = next(dist.rendezvous("env://", timeout=timeout))
    assert isinstance(store, dist.Store)
    return store
