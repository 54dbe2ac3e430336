"""A server, and what can be seen of it from outside."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import httpx
from tests.processes import family, is_running

import unshard
from unshard.server.freed_memory import EVERY_S

DEMO_MODEL = Path(unshard.__file__).parent / "demo_model"
PATIENCE_S = 120.0
"""Whoever takes longer hangs."""
MAX_GONE_S = 5.0
"""What may be left of a server for how long after one of its processes was killed."""
CLIENT_S = 3
"""What a client may take to send or to read."""
GIVEN_BACK_S = EVERY_S + 5
"""Within which a server has given back what was freed."""
QUEUE = 96
"""Generations that may wait: of what 64 clients ask for, some are refused now and then."""
TOO_MUCH = re.compile("Traceback|a bug ended|Error:|Warning|never awaited")


class BrokenError(Exception):
    """A law was broken."""


@dataclass(frozen=True, slots=True)
class Manner:
    """How a server is started."""

    tp: int
    batch: int
    drain_s: float

    def options(self) -> list[str]:
        said = {"--tp": self.tp, "--max-batch": self.batch, "--drain-seconds": self.drain_s}
        said |= {"--max-queue": QUEUE, "--client-timeout": CLIENT_S, "--port": 0}
        return [word for name, value in said.items() for word in (name, str(value))]


class Server:
    """One that is ready. Its log goes to `log`."""

    def __init__(self, manner: Manner, log: Path) -> None:
        self.manner, self._log = manner, log
        command = [sys.executable, "-m", "tools.load.small_cache", "serve", str(DEMO_MODEL)]
        with log.open("w") as file:
            self.process = subprocess.Popen([*command, *manner.options()], stderr=file)
        until = time.monotonic() + PATIENCE_S
        while not (ready := re.search(r"^serving .*(http://\S+)", self.log(), re.MULTILINE)):
            if self.process.poll() is not None or time.monotonic() > until:
                self.process.kill()
                raise BrokenError(f"it does not start: {self.log()}")
            time.sleep(0.02)
        self.url = ready[1]
        self.pids = family(self.process.pid)
        self.num_preempted = 0.0

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    def log(self) -> str:
        return self._log.read_text()

    def memory_bytes(self) -> int:
        """Resident, of all ranks."""
        pages = sum(int(Path(f"/proc/{pid}/statm").read_text().split()[1]) for pid in self.pids)
        return pages * os.sysconf("SC_PAGE_SIZE")

    def settled_memory_bytes(self, most: float) -> int:
        """Resident, once that is no more than `most`; else the least until what was freed must
        have been given back."""
        least, until = self.memory_bytes(), time.monotonic() + GIVEN_BACK_S
        while least > most and time.monotonic() < until:
            time.sleep(0.1)
            least = min(least, self.memory_bytes())
        return least

    def settled_files(self, most: int | None) -> int:
        """Open descriptors of rank 0, once they are no more than `most`.

        Raises:
            BrokenError: they stay more.
        """
        until = time.monotonic() + PATIENCE_S
        while True:
            found = sum(1 for _ in Path(f"/proc/{self.process.pid}/fd").iterdir())
            if most is None or found <= most:
                return found
            if time.monotonic() > until:
                raise BrokenError(f"{found} descriptors are open, and {most} were")
            time.sleep(0.05)

    def metrics(self) -> dict[str, float]:
        told = httpx.get(f"{self.url}/metrics", timeout=PATIENCE_S).text
        lines = (line.rpartition(" ") for line in told.splitlines() if line[:1] != "#")
        return {name: float(value) for name, _, value in lines}

    def settle(self) -> dict[str, float]:
        """Its metrics, once nobody asks for anything.

        Raises:
            BrokenError: blocks of the cache, or a request, are held for ever.
        """
        until = time.monotonic() + PATIENCE_S
        while True:
            seen = self.metrics()
            held = seen['unshard_cache_blocks{state="used"}']
            others = seen["unshard_requests_open"] - 1  # this one
            if not (held or others):
                return seen
            if time.monotonic() > until:
                raise BrokenError(f"{held:g} blocks are held, {others:g} requests open")
            time.sleep(0.05)

    def ended(self) -> int:
        """The exit code, once it has ended.

        Raises:
            BrokenError: it hangs, or leaves a process.
        """
        try:
            code = self.process.wait(self.manner.drain_s + PATIENCE_S)
        except subprocess.TimeoutExpired as error:
            raise BrokenError("it hangs at its end") from error
        self.gone()
        return code

    def gone(self) -> float:
        """Seconds until no process of it was left.

        Raises:
            BrokenError: one is left.
        """
        began = time.monotonic()
        while left := [pid for pid in self.pids if is_running(pid)]:
            self.process.poll()
            if time.monotonic() - began > MAX_GONE_S:
                raise BrokenError(f"after {MAX_GONE_S} s these are left: {left}")
            time.sleep(0.005)
        return time.monotonic() - began

    def check_log(self, *, is_quiet: bool) -> None:
        """Raises: BrokenError: it says what it should not; `is_quiet`: anything at all."""
        lines = self.log().splitlines()
        rest = [
            line for line in lines if not line.startswith(("serving ", "ending: open requests"))
        ]
        if TOO_MUCH.search(self.log()) or (is_quiet and rest):
            raise BrokenError("its log says " + " | ".join(rest)[:2000])

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
