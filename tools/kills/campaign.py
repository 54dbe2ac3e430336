"""One case: a command, ended at random moments, and the laws that hold for it."""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import random
import shutil
import signal
import sys
import time
from ctypes import c_long
from dataclasses import dataclass, field
from multiprocessing.context import ForkServerProcess
from pathlib import Path

from tools.kills.calls import end_at
from tools.kills.commands import CASES, CONNECTIONS, Case, World

from unshard.cli.main import main
from unshard.download import shares

JOURNAL = ".unshard-download.jsonl"
RESHARD = "unshard.json"
LATEST_S = 120.0
"""A run that takes longer hangs."""
LOST_BYTES = 2**20
"""What a kill may cost a connection."""
PAGE_BYTES = 4096
ENDS = {signal.SIGKILL: (-9,), signal.SIGTERM: (-15, 143), signal.SIGINT: (130,)}


class WrongError(Exception):
    """A law was broken."""


@dataclass
class Seen:
    """What an undisturbed run of a command leaves, and how long it takes."""

    tree: dict[str, bytes]
    seconds: float
    num_calls: int


@dataclass
class Campaign:
    world: World
    context: multiprocessing.context.ForkServerContext
    seen: dict[tuple[str, ...], Seen] = field(default_factory=dict)
    num_kills: int = 0

    def __post_init__(self) -> None:
        self._calls = self.context.RawValue(c_long, 0)

    def run(self, name: str, seed: int) -> None:
        """One case.

        Raises:
            WrongError: what it broke.
        """
        chance = random.Random(seed)
        case = CASES[name](self.world, chance)
        if case.arguments not in self.seen:
            self.seen[case.arguments] = self._undisturbed(case, chance)
        seen = self.seen[case.arguments]
        folder = _fresh(self.world.home / "case")
        case.prepare(folder, chance)
        kills = range(chance.randrange(1, 7))
        if not any(self._disturbed(case, folder, seen, chance) for _ in kills):
            held = _held_bytes(folder / "raw")
            self._end(self._start(case, folder), folder, (0,))
            if name == "download":
                self._check_fetched(folder, held)
        self._end(self._start(case, folder), folder, (0,))  # there is nothing left to do
        if (tree := _tree(folder)) != seen.tree:
            raise WrongError(_difference(tree, seen.tree))

    def _undisturbed(self, case: Case, chance: random.Random) -> Seen:
        folder = _fresh(self.world.home / "case")
        case.prepare(folder, chance)
        process = self._start(case, folder)
        started = time.monotonic()
        self._end(process, folder, (0,))
        return Seen(_tree(folder), time.monotonic() - started, self._calls.value)

    def _disturbed(self, case: Case, folder: Path, seen: Seen, chance: random.Random) -> bool:
        """One run that is ended on the way; whether it came to its own end before."""
        whole_s = seen.seconds
        if chance.random() < 0.5:
            return self._killed_at_a_call(case, folder, chance.randrange(seen.num_calls))
        process = self._start(case, folder)
        process.join(chance.uniform(0, whole_s))
        if chance.random() < 0.2:
            _signal(process, signal.SIGSTOP)
            time.sleep(chance.uniform(0, 0.3))
            _signal(process, signal.SIGCONT)
            process.join(chance.uniform(0, whole_s / 2))
        last = chance.choices(list(ENDS), (6, 2, 2))[0]
        if process.exitcode is None:
            self.num_kills += 1
            _signal(process, last)
        self._end(process, folder, (0, *ENDS[last]))
        return process.exitcode == 0

    def _killed_at_a_call(self, case: Case, folder: Path, moment: int) -> bool:
        process = self._start(case, folder, moment)
        self._end(process, folder, (0, -signal.SIGKILL))
        self.num_kills += process.exitcode != 0
        return process.exitcode == 0

    def _start(self, case: Case, folder: Path, moment: int | None = None) -> ForkServerProcess:
        log = folder.with_suffix(".log")
        log.unlink(missing_ok=True)
        link = self.world.store.presigned_url()
        self._calls.value = 0
        arguments = (case.command(folder), link, log, moment, self._calls)
        process = self.context.Process(target=_command, args=arguments)
        process.start()
        while process.exitcode is None and not (log.exists() and log.stat().st_size):
            time.sleep(0.002)
        return process

    def _end(self, process: ForkServerProcess, folder: Path, codes: tuple[int, ...]) -> None:
        process.join(LATEST_S)
        if process.exitcode is None:
            process.kill()
            raise WrongError("it hangs")
        told = folder.with_suffix(".log").read_text()
        if process.exitcode not in codes or "Traceback" in told or "Signature=" in told:
            raise WrongError(f"it exits with {process.exitcode} and says {told}")

    def _check_fetched(self, folder: Path, held: int) -> None:
        told = folder.with_suffix(".log").read_text().partition("\n")[2]
        report = json.loads(told[told.index("{") : told.rindex("}") + 1])
        slack = CONNECTIONS * LOST_BYTES + PAGE_BYTES * len(report["fetched"])
        if report["received_bytes"] > self.world.num_bytes - held + slack:
            raise WrongError(f"{held} bytes were there, and it fetched {report['received_bytes']}")


def _command(arguments: list[str], link: str, log: Path, moment: int | None, calls: c_long) -> None:
    """In a process of its own: the command line, with ranges of small files."""
    shares.SMALLEST_SHARE_BYTES = 2**16
    os.environ["UNSHARD_URL"] = link
    out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(out, 1)
    os.dup2(out, 2)
    os.write(out, b"begun\n")
    end_at(moment, calls)
    sys.exit(main(arguments))


def _signal(process: ForkServerProcess, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(process.pid or 0, number)


def _fresh(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    return folder


def _tree(folder: Path) -> dict[str, bytes]:
    """All files, without what is said in them of the times of others."""
    paths = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): _timeless(path) for path in paths}


def _timeless(path: Path) -> bytes:
    if path.name == JOURNAL:
        return b""
    content = path.read_bytes()
    if path.name == RESHARD:
        content = json.dumps(json.loads(content) | {"sources": None}).encode()
    return content


def _held_bytes(folder: Path) -> int:
    """How many bytes of files, whole or not, there are: a file may be full of holes."""
    return sum(path.stat().st_blocks * 512 for path in folder.glob("*.pt*"))


def _difference(found: dict[str, bytes], expected: dict[str, bytes]) -> str:
    more, fewer = sorted(found.keys() - expected), sorted(expected.keys() - found)
    others = sorted(name for name in found.keys() & expected if found[name] != expected[name])
    return f"files too many: {more}; too few: {fewer}; with other bytes: {others}"
