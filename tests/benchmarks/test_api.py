"""The benchmark of the API runs, and its differences are those of what it prints."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = Path(__file__).parents[2] / "benchmarks" / "api.py"


@pytest.mark.slow
def test_a_quick_run_ends_with_a_table_and_figures() -> None:
    command = [sys.executable, str(PROGRAM), "--pairs", "3", "--tokens", "200"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    *_, first, processor, last = done.stdout.splitlines()
    found = json.loads(last)
    assert first.split("|")[2:5] == [
        f" {found[key]:.2f} " for key in ("http_ms", "engine_ms", "api_ms")
    ]
    assert processor.split("|")[2] == f" {found['server_cpu_ms']:.2f} "
    assert min(found["http_ms"], found["engine_ms"], found["engine_cpu_ms"]) > 0
