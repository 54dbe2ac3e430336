"""The benchmark of serving runs: contestants generate what was asked, the table has its ratios."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

PROGRAM = Path(__file__).parents[2] / "benchmarks" / "serve.py"


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_quick_run_ends_with_a_table_and_a_drawing(tmp_path: Path) -> None:
    drawing = tmp_path / "ratios.svg"
    command = [sys.executable, str(PROGRAM), "--quick", "--home", str(tmp_path)]
    command += ["--peers", "transformers", "--svg", str(drawing)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "**tiny fp32**, medians of 1" in done.stdout
    (found,) = json.loads(done.stdout.splitlines()[-1]).values()
    assert set(found["figures"]) == {"unshard", "unshard torch-only", "transformers"}
    for figures in found["figures"].values():
        assert set(figures) == {"cold", "single", "first", "c16", "rss"}
        assert all(value > 0 for value in figures.values())
    ours, theirs = found["figures"]["unshard"], found["figures"]["transformers"]
    ratios = found["unshard / best peer"]
    assert ratios == pytest.approx({case: ours[case] / theirs[case] for case in ours})
    bars = ET.parse(drawing).getroot().findall("{http://www.w3.org/2000/svg}rect")
    assert len(bars) == 1 + 2 * len(ratios)
