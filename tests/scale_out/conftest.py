"""A Ray cluster of two nodes with one CPU each, on the loopback interface of this machine."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar

import pytest

Found = TypeVar("Found")
START_TIMEOUT_S = 100
STOP_TIMEOUT_S = 60


def wait_for(found: Callable[[], Found]) -> Found:
    """What `found` gives as soon as it is true."""
    end = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < end:
        if result := found():
            return result
        time.sleep(0.05)
    raise TimeoutError


@contextmanager
def node(folder: Path, host: str, *options: str) -> Iterator[None]:
    """A node that is up. `ray start --block` ends what it began when it is asked to end; what it
    might leave is in its process group."""
    log = folder / f"{host}.log"
    command = [
        Path(sys.executable).with_name("ray"), "start", "--block", f"--node-ip-address={host}",
        "--num-cpus=1", "--object-store-memory=100000000", f"--temp-dir={folder}", *options,
    ]  # fmt: skip
    environment = os.environ | {"RAY_USAGE_STATS_ENABLED": "0"}
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, env=environment, stdout=output, stderr=output, start_new_session=True
        )
    try:
        wait_for(lambda: b"runtime started" in log.read_bytes())
        yield
    finally:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(STOP_TIMEOUT_S)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@pytest.fixture(scope="session")
def cluster() -> Iterator[str]:
    """The cluster's address. Its folder has a short name, for the sockets in it."""
    with tempfile.TemporaryDirectory(prefix="ray-") as name:
        folder = Path(name)
        address = folder / "ray_current_cluster"
        with node(folder, "127.0.0.2", "--head", "--port=0", "--include-dashboard=false"):
            head = wait_for(lambda: address.exists() and address.read_text())
            with node(folder, "127.0.0.3", f"--address={head}"):
                yield head
