"""`unshard verify` and what is under it against `md5sum`: seconds and ratios.

    python benchmarks/verify.py [--gigabytes 4] [--files 64] [--runs 5] [--dir FOLDER]

The files are random bytes in the page cache. Contestants, interleaved within each run:

md5sum      `md5sum *`
xargs       `xargs -P2 -n1 md5sum`: one process a file, two at a time; the others are held to it
hashlib     `hash_files` without lanes, one thread a core
lanes       `hash_files` with SIMD lanes, the kernel compiled before
verify      `unshard verify FOLDER --manifest FILE` as a new process that has to compile it
no lanes    the same where llvmlite cannot be imported: hashlib threads

All must find the same md5s. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from unittest import mock

from unshard.digest import files, has_lanes, hash_files
from unshard.testing.scratch import Scratch


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gigabytes", type=float, default=4.0)
    parser.add_argument("--files", type=int, default=64)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--dir", type=Path)
    arguments = parser.parse_args()
    if not has_lanes("md5"):
        raise SystemExit("there are no lanes here: pip install 'unshard[fast]'")
    with Scratch("unshard-bench-", arguments.dir) as folder:
        paths = write_files(folder / "files", arguments.files, arguments.gigabytes)
        seconds = measure(folder, paths, arguments.runs)
        num_bytes = sum(path.stat().st_size for path in paths)
    print(json.dumps(report(seconds, num_bytes)))


def write_files(folder: Path, num_files: int, gigabytes: float) -> list[Path]:
    folder.mkdir()
    block = os.urandom(2**20)
    paths = [folder / f"{i:04}.pt" for i in range(num_files)]
    for path in paths:
        with path.open("wb") as file:
            file.write(os.urandom(64))
            for _ in range(round(gigabytes * 1e9 / num_files / len(block))):
                file.write(block)
    return paths


def measure(folder: Path, paths: list[Path], runs: int) -> dict[str, list[float]]:
    """Seconds of every run, by contestant."""
    manifest = folder / "md5sums"
    manifest.write_text(md5sum_lines(by_xargs(paths)))
    contestants: dict[str, Callable[[], dict[Path, str] | None]] = {
        "md5sum": lambda: parsed(subprocess.check_output(["md5sum", *paths])),
        "xargs": lambda: by_xargs(paths),
        "hashlib": lambda: by_hash_files(paths, with_lanes=False),
        "lanes": lambda: by_hash_files(paths, with_lanes=True),
        "verify": lambda: by_verify(paths[0].parent, manifest, with_lanes=True),
        "no lanes": lambda: by_verify(paths[0].parent, manifest, with_lanes=False),
    }
    expected = by_xargs(paths)
    by_hash_files(paths, with_lanes=True)
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(runs):
        for name, contestant in contestants.items():
            start = time.perf_counter()
            found = contestant()
            seconds[name].append(time.perf_counter() - start)
            if found not in (None, expected):
                raise SystemExit(f"{name}: wrong md5s")
    return seconds


def by_xargs(paths: list[Path]) -> dict[Path, str]:
    names = "\0".join(map(str, paths)).encode()
    return parsed(subprocess.check_output(["xargs", "-0", "-P2", "-n1", "md5sum"], input=names))


def by_hash_files(paths: list[Path], *, with_lanes: bool) -> dict[Path, str]:
    with mock.patch.object(files, "LANES_PAY_BYTES", 0 if with_lanes else 2**62):
        found = hash_files(paths, "md5", advance=lambda _num_bytes: None)
        return {path: md5 for path, md5 in found if isinstance(md5, str)}


def by_verify(folder: Path, manifest: Path, *, with_lanes: bool) -> None:
    hide = "" if with_lanes else "import sys; sys.modules['llvmlite'] = None; "
    program = f"{hide}from unshard.cli.main import main; raise SystemExit(main())"
    command = [sys.executable, "-c", program, "verify", str(folder), "--manifest", str(manifest)]
    subprocess.run([*command, "--force"], check=True, stdout=subprocess.DEVNULL)


def parsed(output: bytes) -> dict[Path, str]:
    return {Path(line[34:]): line[:32] for line in output.decode().splitlines()}


def md5sum_lines(md5s: dict[Path, str]) -> str:
    return "".join(f"{md5}  {path.name}\n" for path, md5 in md5s.items())


def report(seconds: dict[str, list[float]], num_bytes: int) -> dict[str, object]:
    medians = {name: statistics.median(each) for name, each in seconds.items()}
    for name, median in medians.items():
        print(
            f"{name:9} {median:6.2f} s {num_bytes / median / 1e9:6.2f} GB/s "
            f"{medians['xargs'] / median:6.2f} x xargs"
        )
    return {
        "gigabytes": round(num_bytes / 1e9, 3),
        "seconds": {name: round(median, 3) for name, median in medians.items()},
        "times_xargs": {name: round(medians["xargs"] / s, 2) for name, s in medians.items()},
    }


if __name__ == "__main__":
    main()
