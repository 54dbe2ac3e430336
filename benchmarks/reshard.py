"""`unshard reshard` against `cp` of the same bytes: wall time as a ratio, and peak memory.

A reshard syncs what it writes before it says done; plain `cp` does not, so both kinds are here.

    python benchmarks/reshard.py [--gigabytes 2] [--runs 3] [--dir FOLDER]

Interleaved on a warm page cache; each output is deleted before the next run. The last line
is JSON.
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
import tempfile
import time
from pathlib import Path

from unshard.architectures.opt import OPTConfig
from unshard.testing.tiny_checkpoint import write_tiny_checkpoint

HIDDEN = 2048
BYTES_PER_LAYER = 12 * HIDDEN * HIDDEN * 2
MB = 1_000_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gigabytes", type=float, default=2.0)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--dir", type=Path)
    parser.add_argument("--make", type=Path, help="only write the checkpoint, into this folder")
    arguments = parser.parse_args()
    if arguments.make:
        make_checkpoint(arguments.make, arguments.gigabytes)
        return
    with tempfile.TemporaryDirectory(dir=arguments.dir, prefix="unshard-bench-") as folder:
        work = Path(folder)
        # In a process of its own: a child's peak memory starts at its parent's.
        make = [sys.executable, __file__, "--gigabytes", str(arguments.gigabytes), "--make"]
        subprocess.run([*make, str(work / "raw")], check=True)
        num_bytes = sum(path.stat().st_size for path in (work / "raw").iterdir())
        report(num_bytes, measure(work, arguments.runs))


def make_checkpoint(folder: Path, gigabytes: float) -> None:
    """A raw checkpoint of 2 parts x 16 shards."""
    layers = max(1, round(gigabytes * 1e9 / BYTES_PER_LAYER))
    config = OPTConfig(layers, HIDDEN, 32, 4 * HIDDEN, 50272, 2048, HIDDEN)
    print(f"making {layers} layers of hidden {HIDDEN} …", file=sys.stderr)
    write_tiny_checkpoint(folder, config, tp_size=8, fsdp_size=16)


def contestants(raw: Path, out: Path) -> dict[str, list[str]]:
    unshard = [sys.executable, "-m", "unshard", "reshard", str(raw), str(out)]
    return {
        "cp": ["cp", "-r", str(raw), str(out)],
        "cp, synced": ["sh", "-c", 'cp -r "$0" "$1" && sync "$1"/*', str(raw), str(out)],
        "to safetensors": [*unshard, "--to", "safetensors", "--max-file-size", "1TB"],
        "to 2 metaseq parts": [*unshard, "--to", "metaseq"],
        "to 1 metaseq part": [*unshard, "--to", "metaseq", "--tp", "1"],
    }


def measure(work: Path, runs: int) -> dict[str, list[tuple[float, float]]]:
    """Seconds and peak MB of every run, by contestant, interleaved."""
    warm_up(work / "warm", sum(path.stat().st_size for path in (work / "raw").iterdir()))
    found: dict[str, list[tuple[float, float]]] = {}
    for _ in range(runs):
        for name, command in contestants(work / "raw", work / "out").items():
            found.setdefault(name, []).append(timed(command))
            shutil.rmtree(work / "out")
    return found


def warm_up(path: Path, num_bytes: int) -> None:
    """Touches and frees as much memory as a run needs: a virtual machine hands it out slowly."""
    block = os.urandom(MB)
    with path.open("wb") as file:
        for _ in range(2 * num_bytes // MB):
            file.write(block)
    path.unlink()


def timed(command: list[str]) -> tuple[float, float]:
    os.sync()
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


def report(num_bytes: int, found: dict[str, list[tuple[float, float]]]) -> None:
    base = statistics.median(seconds for seconds, _ in found["cp"])
    rows = {}
    print(f"{num_bytes / 1e9:.2f} GB raw, medians of {len(found['cp'])} interleaved runs")
    print(f"{'':<20}{'seconds':>9}{'x cp':>7}{'MB/s':>7}{'peak MB':>9}")
    for name, runs in found.items():
        seconds = statistics.median(run[0] for run in runs)
        peak = max(run[1] for run in runs)
        rows[name] = {"seconds": seconds, "ratio_to_cp": seconds / base, "peak_mb": peak}
        rate = num_bytes / seconds / MB
        print(f"{name:<20}{seconds:>9.2f}{seconds / base:>7.2f}{rate:>7.0f}{peak:>9.0f}")
    print(json.dumps({"bytes": num_bytes, "runs": rows}))


if __name__ == "__main__":
    main()
