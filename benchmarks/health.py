"""`unshard inspect --health` on a synthetic checkpoint: rate, CPU time and peak memory.

    python benchmarks/health.py [--gigabytes 1] [--runs 3] [--workers 2] [--dir FOLDER]

The files are in the page cache. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

from unshard.testing.scratch import Scratch


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gigabytes", type=float, default=1.0)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--dir", type=Path)
    arguments = parser.parse_args()
    with Scratch("unshard-bench-", arguments.dir) as folder:
        raw = folder / "raw"
        make = [sys.executable, str(Path(__file__).with_name("reshard.py"))]
        size = ["--gigabytes", str(arguments.gigabytes)]
        subprocess.run([*make, *size, "--make", str(raw)], check=True)
        num_bytes = sum(path.stat().st_size for path in raw.iterdir())
        runs = [timed(raw, arguments.workers) for _ in range(arguments.runs)]
    wall_s, cpu_s, peak_mb = (statistics.median(column) for column in zip(*runs, strict=True))
    result = {
        "workers": arguments.workers,
        "gigabytes": round(num_bytes / 1e9, 3),
        "gigabytes_per_s": round(num_bytes / wall_s / 1e9, 2),
        "gigabytes_per_cpu_s": round(num_bytes / cpu_s / 1e9, 2),
        "peak_mb": round(peak_mb),
    }
    print(json.dumps(result))


def timed(raw: Path, workers: int) -> tuple[float, float, float]:
    """Wall seconds, CPU seconds and peak memory in MB of one scan, start-up included."""
    scan = [sys.executable, "-m", "unshard", "inspect", str(raw), "--health"]
    start = time.perf_counter()
    process = subprocess.Popen([*scan, "--workers", str(workers)], stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    wall_s = time.perf_counter() - start
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"inspect ended with {process.returncode}")
    return wall_s, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1000


if __name__ == "__main__":
    main()
