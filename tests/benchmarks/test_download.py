"""The download benchmark runs, and its contestants all bring the right files: it says so itself."""

from __future__ import annotations

import json
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
PROGRAM = BENCHMARKS / "download.py"


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_every_scenario_ends_with_a_table() -> None:
    try:
        runpy.run_path(str(BENCHMARKS / "nginx.py"))["program"]()
    except FileNotFoundError as error:
        pytest.skip(str(error))
    command = [sys.executable, str(PROGRAM), "--quick", "--runs", "1"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert list(found) == ["http", "https", "latency", "limited"]
    for scenario, rows in found.items():
        assert f"**{scenario}**: 4 files of 1 MiB on " in done.stdout
        assert rows["unshard"]["ratio"] == 1
    assert found["latency"]["wget loop, md5sum -c"]["seconds"] > 4 * 4 * 0.05
