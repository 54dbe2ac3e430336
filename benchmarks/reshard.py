"""`unshard reshard`, with its proof, against `cp` of the same bytes: seconds, ratios, memory.

    python benchmarks/reshard.py [--gigabytes 4] [--runs 3] [--dir FOLDER]

A raw checkpoint of 8 parts x 16 shards is made into one safetensors file (the parts merged), into
8 consolidated parts and into one. Three kinds of runs, each beside its own `cp`, interleaved:

warm      sources in the page cache, nobody waits for the disk (`--no-sync`, plain `cp`)
durable   sources in the page cache, the output is on the disk when the clock stops (`cp` + `sync`)
cold      sources dropped from the page cache first, output as in `warm`

Memory is touched and freed before each run, because a virtual machine hands it out slowly. The
last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path

from unshard.architectures.opt import OPTConfig
from unshard.testing.scratch import Scratch
from unshard.testing.tiny_checkpoint import write_tiny_checkpoint

HIDDEN = 2048
BYTES_PER_LAYER = 12 * HIDDEN * HIDDEN * 2
MB = 1_000_000
TARGETS = {
    "to 1 safetensors": ["--to", "safetensors", "--max-file-size", "1TB"],
    "to 8 parts": ["--to", "metaseq"],
    "to 1 part": ["--to", "metaseq", "--tp", "1"],
}
Runs = dict[str, list[tuple[float, float]]]
"""Seconds and peak MB of every run, by contestant."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gigabytes", type=float, default=4.0)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--kinds", nargs="+", default=["warm", "durable", "cold"])
    parser.add_argument("--dir", type=Path)
    parser.add_argument("--make", type=Path, help="only write the checkpoint, into this folder")
    arguments = parser.parse_args()
    if arguments.make:
        make_checkpoint(arguments.make, arguments.gigabytes)
        return
    with Scratch("unshard-bench-", arguments.dir) as work:
        # In a process of its own: a child's peak memory starts at its parent's.
        make = [sys.executable, __file__, "--gigabytes", str(arguments.gigabytes), "--make"]
        subprocess.run([*make, str(work / "raw")], check=True)
        num_bytes = sum(path.stat().st_size for path in (work / "raw").iterdir())
        print(f"{num_bytes / 1e9:.2f} GB raw, medians of {arguments.runs} interleaved runs")
        found = {kind: measure(work, kind, arguments.runs) for kind in arguments.kinds}
        print(json.dumps({"bytes": num_bytes, "kinds": found}))


def make_checkpoint(folder: Path, gigabytes: float) -> None:
    """A raw checkpoint of 8 parts x 16 shards."""
    layers = max(1, round((gigabytes * 1e9 - 50272 * HIDDEN * 2) / BYTES_PER_LAYER))
    config = OPTConfig(layers, HIDDEN, 32, 4 * HIDDEN, 50272, 2048, HIDDEN)
    print(f"making {layers} layers of hidden {HIDDEN} …", file=sys.stderr)
    write_tiny_checkpoint(folder, config, tp_size=8, fsdp_size=16)


def measure(work: Path, kind: str, runs: int) -> dict[str, dict[str, float]]:
    """Runs all contestants `runs` times each, prints a table, returns its figures."""
    raw, out = work / "raw", work / "out"
    num_bytes = sum(path.stat().st_size for path in raw.iterdir())
    found: Runs = {}
    for _ in range(runs):
        for name, command in contestants(raw, out, kind).items():
            prepare(raw, num_bytes, kind)
            found.setdefault(name, []).append(timed(command))
            shutil.rmtree(out)
    return report(kind, num_bytes, found)


def contestants(raw: Path, out: Path, kind: str) -> dict[str, list[str]]:
    unshard = [sys.executable, "-m", "unshard", "reshard", str(raw), str(out)]
    if kind == "durable":
        copy = ["sh", "-c", 'cp -r "$0" "$1" && sync "$1"/*', str(raw), str(out)]
        return {"cp": copy, **{name: [*unshard, *flags] for name, flags in TARGETS.items()}}
    copy = ["cp", "-r", str(raw), str(out)]
    return {
        "cp": copy,
        **{name: [*unshard, *flags, "--no-sync"] for name, flags in TARGETS.items()},
    }


def prepare(raw: Path, num_bytes: int, kind: str) -> None:
    """Brings the page cache into the state that `kind` names, and wakes memory."""
    os.sync()
    for path in raw.iterdir():
        with path.open("rb", buffering=0) as file:
            if kind == "cold":
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            else:
                while file.read(1 << 20):
                    pass
    # In a process of its own, whose peak memory no contestant inherits.
    subprocess.run(
        [sys.executable, "-c", WAKE, str(raw.parent / "wake"), str(num_bytes)], check=True
    )


WAKE = """
import os, sys
path, num_bytes = sys.argv[1], int(sys.argv[2])
block = os.urandom(1 << 20)
with open(path, "wb", buffering=0) as file:
    for _ in range(num_bytes * 5 // 4 >> 20):
        file.write(block)
os.unlink(path)
"""


def timed(command: list[str]) -> tuple[float, float]:
    started = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - started
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} failed")
    return seconds, peak_mb(usage)


def peak_mb(usage: resource.struct_rusage) -> float:
    return usage.ru_maxrss * 1024 / MB


def report(kind: str, num_bytes: int, found: Runs) -> dict[str, dict[str, float]]:
    base = statistics.median(seconds for seconds, _ in found["cp"])
    rows = {}
    print(f"{kind:<20}{'seconds':>9}{'x cp':>7}{'MB/s':>7}{'peak MB':>9}   all runs")
    for name, runs in found.items():
        seconds = statistics.median(run[0] for run in runs)
        peak = max(run[1] for run in runs)
        rows[name] = {"seconds": seconds, "ratio_to_cp": seconds / base, "peak_mb": peak}
        rate = num_bytes / seconds / MB
        each = " ".join(f"{run[0]:.2f}" for run in runs)
        print(f"{name:<20}{seconds:>9.2f}{seconds / base:>7.2f}{rate:>7.0f}{peak:>9.0f}   {each}")
    return rows


if __name__ == "__main__":
    main()
