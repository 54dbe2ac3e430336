"""A server does not keep what it freed."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

PROGRAM = """
import asyncio
from pathlib import Path
from unshard.server import freed_memory

def resident_bytes():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

async def serve():
    async with freed_memory.freed_memory_given_back():
        before = resident_bytes()
        for _ in range(1000):
            await asyncio.sleep(0.01)
            if before - resident_bytes() > 30_000_000:
                return True

freed_memory.EVERY_S = 0.01
blocks = [bytearray(b"x" * 100_000) for _ in range(1000)]
kept = blocks[::10]
blocks.clear()
print(asyncio.run(serve()))
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library's memory")
def test_what_was_freed_between_what_stays_goes_back() -> None:
    command = [sys.executable, "-c", PROGRAM]
    told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert told.strip() == "True"
