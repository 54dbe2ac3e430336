"""A worker that ends is named, and takes the others with it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading

import pytest

from unshard.errors import UsageError, WorkerLostError
from unshard.parallel import watch
from unshard.parallel.place import Place, launched_place
from unshard.parallel.workers import Workers

SLEEP = ["/bin/sleep", "600"]


@pytest.fixture
def started():
    """Starts one worker per command."""
    all_workers = []

    def started(*commands, abandon=lambda lost: None):
        workers = Workers(abandon)
        all_workers.append(workers)
        for rank, command in enumerate(commands, start=1):
            workers.start(rank, len(commands) + 1, command, os.environ)
        return workers

    yield started
    for workers in all_workers:
        workers.kill()


def pids(workers):
    return [process.pid for process in workers._processes.values()]


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("kill -9 $$", "rank 2 of 3 was ended by SIGKILL"),
        ("kill -40 $$", "rank 2 of 3 was ended by signal 40"),
        ("exit 3", "rank 2 of 3 ended with exit code 3"),
        ("exit 0", "rank 2 of 3 ended with exit code 0"),
        ("echo one; echo the file x is short; exit 3", "exit code 3: the file x is short"),
    ],
)
def test_the_first_that_ends_is_named_and_the_others_end(started, script, message):
    workers = started(SLEEP, ["/bin/bash", "-c", script])
    lost = workers.wait_for_loss(60)
    assert isinstance(lost, WorkerLostError)
    assert message in lost.message
    assert "\n" not in lost.message
    with pytest.raises(WorkerLostError):
        workers.check()
    assert workers._processes[1].wait(60) == -signal.SIGKILL
    assert workers.lost is lost


def test_on_loss_is_called_also_afterwards(started):
    workers = started(SLEEP)
    called = threading.Event()
    workers.on_loss(called.set)
    os.kill(pids(workers)[0], signal.SIGTERM)
    assert called.wait(60)
    late = threading.Event()
    workers.on_loss(late.set)
    assert late.is_set()


def test_who_does_not_end_after_a_loss_is_abandoned(started, monkeypatch):
    monkeypatch.setattr(watch, "END_SECONDS", 0.05)
    abandoned, said = threading.Event(), []

    def abandon(lost):
        said.append(lost.message)
        abandoned.set()

    started(["/bin/false"], abandon=abandon)
    assert abandoned.wait(60)
    assert said == ["rank 1 of 2 ended with exit code 1"]


def test_close_waits_then_kills_and_nothing_is_lost(started, monkeypatch):
    monkeypatch.setattr(watch, "END_SECONDS", 0.1)
    workers = started(["/bin/sleep", "0.3"], SLEEP)
    workers.dismiss()
    workers._processes[1].wait()
    workers.close()
    assert [p.returncode for p in workers._processes.values()] == [0, -signal.SIGKILL]
    workers.check()
    assert workers.wait_for_loss(0) is None


CHILD = """
import os, time
from unshard.parallel.place import end_with_parent
end_with_parent({parent})
print("up", flush=True)
time.sleep(600)
"""


@pytest.mark.slow
def test_a_child_dies_with_its_parent():
    child = [sys.executable, "-c", CHILD.format(parent="os.getppid()")]
    script = f"import subprocess; subprocess.run({child!r})"
    with subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout.readline() == "up\n"
        parent.kill()
        parent.stdout.read()  # to its end: nobody holds the other end of the pipe any more


@pytest.mark.slow
def test_a_child_whose_parent_died_before_it_asked_dies_too():
    orphan = [sys.executable, "-c", CHILD.format(parent=1 << 22)]
    assert subprocess.run(orphan, check=False).returncode == -signal.SIGKILL


LAUNCHED = {"RANK": "5", "WORLD_SIZE": "8", "MASTER_ADDR": "h", "MASTER_PORT": "1"}


def test_what_torchrun_says():
    on_two_hosts = LAUNCHED | {"LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "4"}
    assert launched_place(on_two_hosts) == Place(5, 8, 1, 4)
    assert launched_place(LAUNCHED) == Place(5, 8, 5, 8)
    assert launched_place({"RANK": "5", "WORLD_SIZE": "8"}) is None
    assert launched_place({}) is None


@pytest.mark.parametrize(
    "wrong",
    [
        {"RANK": "x"},
        {"RANK": "8"},
        {"RANK": "-1"},
        {"LOCAL_RANK": "4", "LOCAL_WORLD_SIZE": "4"},
    ],
)
def test_an_environment_that_is_no_place_is_refused(wrong):
    with pytest.raises(UsageError, match="RANK=") as caught:
        launched_place(LAUNCHED | wrong)
    assert caught.value.hint
