"""The tests of one package, collected and run once; then again for each mutant, in a fork.

The first run notes which tests reach which line. A mutant's fork takes the mutated functions' code
in place of theirs and runs the tests that reach its line, the package's own and the quickest
first, until one fails.
"""

from __future__ import annotations

import functools
import gc
import os
import resource
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import CodeType, FunctionType
from typing import Any

import pytest
from _pytest.runner import runtestprotocol
from coverage import Coverage
from tools.mutation.mutants import Mutant

SURVIVED, KILLED, SAME, BROKEN = 0, 1, 2, 3
TEST_SECONDS = 3.0  # of the tests of one mutant, as they took in the first run
CPU_SECONDS = 20  # of a fork: what takes longer loops
WALL_SECONDS = 120.0
MEMORY_BYTES = 16 << 30


@dataclass(slots=True)
class MutationSession:
    """A pytest plugin that runs `mutants` in place of a session's end. `outcomes` is its result:
    in the order of `mutants`, the word for what became of each."""

    package: Path
    mutants: Sequence[Mutant]
    jobs: int
    log: Path
    outcomes: dict[int, str] = field(default_factory=dict)
    _seconds: dict[str, float] = field(default_factory=dict)
    _coverage: Any = None

    def pytest_sessionstart(self) -> None:
        """Examples are the same in every fork, and a failing one is not made smaller."""
        from hypothesis import Phase, settings  # noqa: PLC0415 - pytest imports it first

        settings.register_profile(
            "mutation",
            settings.get_profile("unshard"),
            derandomize=True,
            database=None,
            phases=(Phase.explicit, Phase.generate),
        )
        settings.load_profile("mutation")

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        gc.unfreeze()  # `_take_in` looks for the functions among what tests/conftest.py froze
        items = {item.nodeid: item for item in session.items}
        lines = self._reached(session.items)
        unfit = _failing_in_a_fork(session.items)
        running: dict[int, tuple[int, float]] = {}
        for index, mutant in enumerate(self.mutants):
            names = lines.get((str(mutant.path.resolve()), mutant.line), set())
            tests = [items[name] for name in self._quickest(names - unfit)]
            if not tests:
                self._note(index, "survived: no test reaches it")
                continue
            while len(running) >= self.jobs:
                self._reap(running)
            pid = os.fork()
            if pid == 0:
                _run_mutant(mutant, tests)
            running[pid] = (index, time.monotonic() + WALL_SECONDS)
        while running:
            self._reap(running)
        return True

    def _reached(self, items: Sequence[pytest.Item]) -> dict[tuple[str, int], set[str]]:
        """The tests that reach each line of the package."""
        coverage = Coverage(data_file=None, include=[f"{self.package.resolve()}/*"])
        coverage.start()
        for item, following in zip(items, [*items[1:], None], strict=True):
            coverage.switch_context(item.nodeid)
            before = time.process_time()
            reports = runtestprotocol(item, log=False, nextitem=following)
            self._seconds[item.nodeid] = time.process_time() - before
            for report in reports:
                assert not report.failed, f"{item.nodeid} fails without a mutant: {report.longrepr}"
        coverage.stop()
        data = coverage.get_data()
        return {
            (file, line): set(contexts) - {""}
            for file in data.measured_files()
            for line, contexts in data.contexts_by_lineno(file).items()
        }

    def _quickest(self, names: set[str]) -> Iterator[str]:
        """The package's own tests first, each time the quickest, for `TEST_SECONDS`."""
        left, own = TEST_SECONDS, f"tests/{self.package.name}/"
        for name in sorted(names, key=lambda name: (not name.startswith(own), self._seconds[name])):
            left -= self._seconds[name]
            if left < 0:
                return
            yield name

    def _reap(self, running: dict[int, tuple[int, float]]) -> None:
        for pid, (index, deadline) in list(running.items()):
            done, status = os.waitpid(pid, os.WNOHANG)
            if done == 0 and time.monotonic() < deadline:
                continue
            if done == 0:
                os.kill(pid, 9)
                os.waitpid(pid, 0)
            del running[pid]
            code = os.waitstatus_to_exitcode(status) if done else -9
            words = {SURVIVED: "survived", KILLED: "killed", SAME: "same code", BROKEN: "not run"}
            self._note(index, words.get(code, "killed: it does not end"))
        time.sleep(0.005)

    def _note(self, index: int, outcome: str) -> None:
        self.outcomes[index] = outcome
        with self.log.open("a") as log:
            log.write(f"{outcome}\t{self.mutants[index]}\n")


def _run_mutant(mutant: Mutant, tests: Sequence[pytest.Item]) -> None:
    """Never returns: the exit code of this fork is the outcome."""
    code = KILLED
    try:
        _limit_resources(CPU_SECONDS)
        code = BROKEN
        code = SURVIVED if _take_in(mutant) else SAME
        for test in tests if code == SURVIVED else ():
            if any(report.failed for report in runtestprotocol(test, log=False, nextitem=None)):
                code = KILLED
                break
    except BaseException:  # noqa: BLE001 - whatever a mutant raises past pytest, it is noticed
        code = BROKEN if code == BROKEN else KILLED
    finally:
        os._exit(code)


def _limit_resources(cpu_seconds: int) -> None:
    resource.setrlimit(resource.RLIMIT_CPU, (cpu_seconds, cpu_seconds))
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))


def _failing_in_a_fork(items: Sequence[pytest.Item]) -> set[str]:
    """The tests that fail without a mutant when they run a second time: they say nothing."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            _limit_resources(60 * CPU_SECONDS)
            for item in items:
                reports = runtestprotocol(item, log=False, nextitem=None)
                if any(report.failed for report in reports):
                    os.write(writing, f"{item.nodeid}\n".encode())
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as names:
        failing = set(names.read().splitlines())
    os.waitpid(pid, 0)
    return failing


def _take_in(mutant: Mutant) -> bool:
    """Give the module's functions the mutated code; whether any differs from what it was."""
    file = str(mutant.path.resolve())
    mutated = dict(_codes(compile(mutant.tree, file, "exec")))
    changed = False
    for each in gc.get_objects():
        if type(each) is FunctionType and each.__code__.co_filename == file:
            code = mutated.get((each.__code__.co_qualname, each.__code__.co_firstlineno))
            if code is not None and code != each.__code__:
                each.__code__ = code
                changed = True
        elif type(each) is functools._lru_cache_wrapper and _is_ours(each):  # noqa: SLF001
            each.cache_clear()
    return changed


def _is_ours(function: Any) -> bool:
    return str(function.__module__).startswith("unshard.")


def _codes(code: CodeType) -> Iterator[tuple[tuple[str, int], CodeType]]:
    yield (code.co_qualname, code.co_firstlineno), code
    for each in code.co_consts:
        if isinstance(each, CodeType):
            yield from _codes(each)
