"""Machines that people have, in the numbers that decide whether a model fits."""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

USABLE = 0.9
"""The share of a device's memory that is left for weights and cache: the rest goes to the
driver's context, activations and fragments."""
THIS_MACHINE = "this machine's CPU"

_CGROUP_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


@dataclass(frozen=True, slots=True)
class Machine:
    """`num_devices` equal devices in one box, each with `device_bytes` of memory."""

    name: str
    num_devices: int
    device_bytes: int
    is_cpu: bool = False

    @property
    def usable_bytes(self) -> int:
        """Of one device."""
        return int(USABLE * self.device_bytes)


def _box(num_devices: int, device_gb: int, card: str) -> Machine:
    return Machine(f"{num_devices} x {device_gb} GB ({card})", num_devices, device_gb * 10**9)


MACHINES = (
    _box(1, 24, "RTX 3090, 4090, A10"),
    _box(1, 80, "A100, H100"),
    _box(1, 141, "H200"),
    _box(8, 32, "V100"),
    _box(16, 40, "A100"),
    _box(8, 80, "A100, H100"),
)
"""By the memory of all devices together."""


def this_machine() -> Machine:
    """The memory that this process may take: the machine's, or its container's share."""
    limits = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    for path in _CGROUP_LIMITS:
        with suppress(OSError, ValueError):  # there is no such limit, or it says "max"
            limits.append(int(Path(path).read_text()))
    return Machine(THIS_MACHINE, 1, min(limits), is_cpu=True)


def free_memory_bytes() -> int:
    """What the kernel could give without swapping: files that it keeps in memory count as free."""
    most = this_machine().device_bytes
    with suppress(OSError):
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return min(most, int(line.split()[1]) * 1024)
    return most
