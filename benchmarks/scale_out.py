"""`unshard reshard --executor ray` against threads: seconds, interleaved, durable.

    ray start --head --num-cpus 2        # or any cluster that sees DIR
    python benchmarks/scale_out.py [--gigabytes 1] [--runs 5] [--workers 2] [--dir FOLDER]

What Ray takes before the first byte is measured apart, on a model of next to nothing. The last
line is JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path

from unshard.testing.scratch import Scratch
from unshard.testing.tiny_checkpoint import write_tiny_checkpoint


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gigabytes", type=float, default=1.0)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--ray-address", default="auto")
    parser.add_argument("--dir", type=Path)
    arguments = parser.parse_args()
    with Scratch("unshard-bench-", arguments.dir) as work:
        make = [sys.executable, str(Path(__file__).with_name("reshard.py"))]
        size = ["--gigabytes", str(arguments.gigabytes)]
        subprocess.run([*make, *size, "--make", str(work / "raw")], check=True)
        write_tiny_checkpoint(work / "tiny")
        found: dict[str, list[float]] = {}
        for _ in range(arguments.runs):
            for name, command in contestants(work, arguments.workers, arguments.ray_address):
                found.setdefault(name, []).append(seconds(command))
                shutil.rmtree(work / "out")
        num_bytes = sum(path.stat().st_size for path in (work / "raw").iterdir())
    for name, runs in found.items():
        each = " ".join(f"{run:.2f}" for run in runs)
        print(f"{name:<24}{statistics.median(runs):>8.2f} s   {each}")
    medians = {name: statistics.median(runs) for name, runs in found.items()}
    print(json.dumps({"bytes": num_bytes, "workers": arguments.workers, "seconds": medians}))


def contestants(work: Path, workers: int, address: str) -> list[tuple[str, list[str]]]:
    common = [str(work / "out"), "--workers", str(workers)]
    unshard = [sys.executable, "-m", "unshard", "reshard"]
    ray = ["--executor", "ray", "--ray-address", address]
    found = []
    for name, target in {
        "to 1 safetensors": ["--to", "safetensors", "--max-file-size", "1TB"],
        "to 8 parts": ["--to", "metaseq"],
    }.items():
        command = [*unshard, str(work / "raw"), *common, *target]
        found += [(f"threads, {name}", command), (f"ray, {name}", [*command, *ray])]
    tiny = [*unshard, str(work / "tiny"), *common, "--to", "metaseq"]
    return [*found, ("threads, nothing to do", tiny), ("ray, nothing to do", [*tiny, *ray])]


def seconds(command: list[str]) -> float:
    os.sync()
    started = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
