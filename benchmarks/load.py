"""Cold start of a checkpoint: process start to first token, with the peak of the process.

    python benchmarks/load.py SRC [--runs 5]

Each run is a process of its own that generates one token; the dtypes take turns. Beside the
elapsed time stands the processor's, which busy neighbours distort less, and the time of a
process that only imports torch: what no loading can do without. `--drop` takes the files out of
the page cache before each run. The last line of the output is JSON.
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

DTYPES = ("fp32", "bf16", "int8")
IMPORT = "import torch"
FIRST_TOKEN = """
import sys
from unshard.cli.main import main
assert main(["generate", sys.argv[1], "Hello", "--dtype", sys.argv[2], "--max-tokens", "1"]) == 0
"""


def run(*command: str) -> dict[str, float]:
    """One process: elapsed and processor seconds, peak in MB."""
    started = time.perf_counter()
    with subprocess.Popen(
        [sys.executable, "-c", *command], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        raise SystemExit(f"{command[1:]} failed")
    return {
        "elapsed_s": time.perf_counter() - started,
        "processor_s": usage.ru_utime + usage.ru_stime,
        "peak_mb": usage.ru_maxrss * 1024 / 1e6,
    }


def drop(folder: Path) -> None:
    """Takes the folder's files out of the page cache."""
    for path in filter(Path.is_file, folder.iterdir()):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(descriptor)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("source", type=Path, help="a folder with a checkpoint in any layout")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--drop", action="store_true", help="read from the disk each time")
    arguments = parser.parse_args()
    commands: dict[str, tuple[str, ...]] = {"import torch": (IMPORT,)}
    commands |= {dtype: (FIRST_TOKEN, str(arguments.source), dtype) for dtype in DTYPES}
    found: dict[str, list[dict[str, float]]] = {name: [] for name in commands}
    for _ in range(arguments.runs):
        for name, command in commands.items():
            if arguments.drop:
                drop(arguments.source)
            found[name].append(run(*command))
    rows = {
        name: {key: statistics.median(each[key] for each in runs) for key in runs[0]}
        for name, runs in found.items()
    }
    print(f"{'':<14}{'elapsed s':>10}{'processor s':>13}{'peak MB':>9}")
    for name, row in rows.items():
        print(
            f"{name:<14}{row['elapsed_s']:>10.2f}{row['processor_s']:>13.2f}{row['peak_mb']:>9.0f}"
        )
    print(json.dumps({"source": str(arguments.source), "runs": arguments.runs, "rows": rows}))


if __name__ == "__main__":
    main()
