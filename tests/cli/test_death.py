"""Whichever process is killed, all of them are gone soon, and the exit code says what happened.

UNSHARD_TRIALS repeats each trial so often, and then holds the project's bar of 5 s; a busy machine
that runs all tests gets more.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.processes import family, is_running

pytestmark = pytest.mark.slow

DEMO_MODEL = Path(__file__).parents[2] / "src/unshard/demo_model"
GONE_SECONDS = 5 if "UNSHARD_TRIALS" in os.environ else 60
TRIALS = range(int(os.environ.get("UNSHARD_TRIALS", "1")))
UNSHARD = [sys.executable, "-m", "unshard"]


def wait_until_gone(pids: list[int]) -> float:
    """Seconds that it took."""
    began = time.monotonic()
    while any(map(is_running, pids)):
        assert time.monotonic() - began < GONE_SECONDS, [pid for pid in pids if is_running(pid)]
        time.sleep(0.01)
    return time.monotonic() - began


@contextmanager
def serving(*command: str) -> Iterator[tuple[subprocess.Popen, str]]:
    """A command that serves, and where."""
    with subprocess.Popen(
        [*UNSHARD, *command], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            yield (
                process,
                next(
                    found[0] for line in process.stderr if (found := re.search(r"http://\S+", line))
                ),
            )
        finally:
            process.kill()


def ask(url: str, max_tokens: int = 500):
    """Begins a completion, the first token of which is there."""
    body = {"prompt": "x", "max_tokens": max_tokens, "logit_bias": {"2": -99}, "stream": True}
    request = urllib.request.Request(
        f"{url}/v1/completions", json.dumps(body).encode(), {"content-type": "application/json"}
    )
    answer = urllib.request.urlopen(request, timeout=30)
    assert answer.readline().startswith(b"data: ")
    return answer


@pytest.mark.parametrize("trial", TRIALS)
@pytest.mark.parametrize(("tp", "victim"), [("1", 0), ("2", 0), ("2", 1)])
def test_a_killed_server_or_rank(tp: str, victim: int, trial: int) -> None:
    with serving("serve", str(DEMO_MODEL), "--port", "0", "--tp", tp) as (process, url):
        everybody = family(process.pid)
        assert len(everybody) == int(tp)
        with ask(url) as answer:
            os.kill(everybody[victim], signal.SIGKILL)
            wait_until_gone(everybody)
            if victim:
                assert b'"error"' in answer.read()
                assert process.wait(GONE_SECONDS) == 5


@pytest.mark.parametrize("trial", TRIALS)
@pytest.mark.parametrize("victim", [0, 1])
def test_a_killed_demo_or_its_server(victim: int, trial: int) -> None:
    with serving("demo") as (process, url):
        everybody = family(process.pid)
        assert len(everybody) == 2
        answers = urllib.request.urlopen(f"{url}/health", timeout=30)
        with answers:
            os.kill(everybody[victim], signal.SIGKILL)
        wait_until_gone(everybody)
        if victim:
            assert process.wait(GONE_SECONDS) == 5
            assert "error: the server ended with -9" in process.stderr.read()


@pytest.mark.parametrize("tp", ["1", "2"])
def test_a_signal_while_a_text_is_written_lets_it_end(tp: str) -> None:
    command = ("serve", str(DEMO_MODEL), "--port", "0", "--tp", tp, "--drain-seconds", "90")
    with serving(*command) as (process, url):
        everybody = family(process.pid)
        with ask(url, max_tokens=50) as answer:
            process.send_signal(signal.SIGTERM)
            assert answer.read().endswith(b"data: [DONE]\n\n")
        assert process.wait(GONE_SECONDS) == 0
        wait_until_gone(everybody)
        # The text may be whole before the server looks for open requests.
        waits = "ending: open requests (1) have 90 s to finish; Ctrl-C again ends now\n"
        assert process.stderr.read() in {"", waits}


@pytest.mark.parametrize("busy", [False, True])
def test_a_rank_that_is_stopped_keeps_nobody_from_ending(busy: bool) -> None:
    """It hears neither of the end nor of a step; silence alone would be found after minutes."""
    command = ("serve", str(DEMO_MODEL), "--port", "0", "--tp", "2", "--drain-seconds", "1")
    with serving(*command) as (process, url):
        server, rank = everybody = family(process.pid)
        answer = ask(url) if busy else contextlib.nullcontext()
        with answer:
            os.kill(rank, signal.SIGSTOP)
            os.kill(server, signal.SIGTERM)
            wait_until_gone(everybody)
        said = process.stderr.read()
    assert process.wait() == (5 if busy else 0)
    assert ("error: rank 1 of 2 was ended by SIGKILL" in said) == busy


def test_an_engine_that_dies_ends_the_server_with_a_code_of_its_own() -> None:
    program = (
        "import sys; from unshard.cli.main import main\n"
        "from unshard.engine.engine import Engine\n"
        "def die(self, *_): raise MemoryError('no more')\n"
        "Engine.fail_step = die; step = Engine.step; steps = iter(range(5))\n"
        "Engine.step = lambda self: step(self) if next(steps, None) is not None else 1 / 0\n"
        "sys.exit(main(sys.argv[1:]))"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, "serve", str(DEMO_MODEL), "--port", "0"],
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        url = re.search(r"http://\S+", process.stderr.readline())[0]
        with ask(url) as answer:
            assert b'"error"' in answer.read()
        assert process.wait(GONE_SECONDS) == 6
        assert process.stderr.read().endswith("error: the engine died: MemoryError: no more\n")
