"""Many clients at once, some of which leave: the others' answers, the cache and the memory.

UNSHARD_LOAD_SECONDS says how long, in calm; faults have a few seconds each.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

ROOT = Path(__file__).parents[2]
SECONDS = os.environ.get("UNSHARD_LOAD_SECONDS", "8")


def load(*arguments: str) -> dict:
    """What the campaign tells at its end."""
    told = subprocess.run(
        [sys.executable, "-m", "tools.load", "--seed", "1", *arguments],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
    )
    assert told.returncode == 0, told.stdout + told.stderr
    return json.loads(told.stdout.splitlines()[-1])


def test_many_clients_some_of_which_leave() -> None:
    met = load("calm", "--tp", "1", "--seconds", "0", "--round-seconds", SECONDS)["met"]
    assert "wrong" not in met
    assert met["right"]
    assert met["left"]


@pytest.mark.parametrize(("fault", "tp"), [("terminate", "1"), ("kill", "2"), ("pause", "2")])
def test_a_fault_in_the_middle(fault: str, tp: str) -> None:
    few = ("--clients", "12", "--round-seconds", "3", "--seconds", "0")
    told = load(fault, "--tp", tp, *few)
    assert told["rounds"] == {fault: 1}
    assert told["met"]["right"]
