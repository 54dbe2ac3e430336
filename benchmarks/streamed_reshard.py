"""The disk that `unshard download … --reshard DST` needs at its peak, by the order of files.

    python benchmarks/streamed_reshard.py [--layers 24] [--hidden 768] [--rate 100MB] [--dir FOLDER]

A raw checkpoint of 8 parts of 16 shards is served on the loopback and resharded while it comes,
with and without --reclaim, to one part and to safetensors. Every 20 ms what both folders occupy
is added up (blocks, so holes do not count); when the last file is there, how much of the reshard
is still to do. What is copied, deleted or fetched of a header at
once is made smaller than ordinarily, as the checkpoint is. "part after part" downloads in the order
of the manifest, which is what the program would do without an order of its own. The last line
is JSON: peaks in bytes, and what was left as a fraction.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from unittest import mock

from unshard.cli.main import main as unshard
from unshard.execute import finishing, tasks
from unshard.library import download_source, stand_ins
from unshard.library.streamed_progress import Behind
from unshard.testing.object_store import FakeObjectStore
from unshard.testing.scratch import Scratch
from unshard.testing.tiny_checkpoint import write_tiny_checkpoint
from unshard.testing.tiny_model import TINY

PARTS, SHARDS = 8, 16
SECONDS_BETWEEN_SAMPLES = 0.02
TASK_BYTES, BATCH_BYTES, HEAD_BYTES, TAIL_BYTES = 256 << 10, 1 << 20, 16 << 10, 4 << 10


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--layers", type=int, default=24)
    parser.add_argument("--hidden", type=int, default=768)
    parser.add_argument("--rate", default="100MB")
    parser.add_argument("--dir", type=Path)
    arguments = parser.parse_args()
    with Scratch("unshard-bench-", arguments.dir) as root:
        size = write_checkpoint(root, arguments.layers, arguments.hidden)
        found = dict(measure(root, arguments.rate))
    for name, (peak, left) in found.items():
        print(f"{name:<48} {peak / 1e6:6.0f} MB  {peak / size:5.2f} x  {100 * left:3.0f} % left")
    print(json.dumps({"checkpoint": size, "runs": found}))


def write_checkpoint(root: Path, layers: int, hidden: int) -> int:
    config = replace(
        TINY,
        num_layers=layers,
        hidden_size=hidden,
        embedding_size=hidden,
        ffn_dim=4 * hidden,
        num_heads=PARTS,
    )
    write_tiny_checkpoint(root / "objects", config, tp_size=PARTS, fsdp_size=SHARDS)
    paths = sorted((root / "objects").iterdir())
    lines = [f"{hashlib.md5(path.read_bytes()).hexdigest()}  {path.name}\n" for path in paths]
    (root / "files.md5").write_text("".join(lines))
    return sum(path.stat().st_size for path in paths)


def measure(root: Path, rate: str) -> Iterator[tuple[str, tuple[int, float]]]:
    finishing.BATCH_BYTES = finishing.RECLAIM_BATCH_BYTES = BATCH_BYTES
    tasks.task_rows.__defaults__ = (TASK_BYTES,)
    stand_ins.HEAD_BYTES, stand_ins.TAIL_BYTES = HEAD_BYTES, TAIL_BYTES
    for target in (("--to", "metaseq", "--tp", "1"), ("--to", "safetensors")):
        yield f"{' '.join(target)}", run(root, rate, *target)
        yield f"{' '.join(target)} --reclaim", run(root, rate, *target, "--reclaim")
    with mock.patch.object(download_source, "_place", return_value=0):
        name = "--to metaseq --tp 1 --reclaim, part after part"
        yield name, run(root, rate, "--to", "metaseq", "--tp", "1", "--reclaim")


def run(root: Path, rate: str, *options: str) -> tuple[int, float]:
    """One run into new folders: the peak of what they took (bytes), and the fraction of the
    reshard that was left after the download."""
    folders = [root / "files", root / "out"]
    files, out = map(str, folders)
    left: list[float] = []
    with FakeObjectStore(root / "objects") as store, sampled(folders) as peak, watched(left):
        more = ["--manifest", str(root / "files.md5"), "--max-rate", rate, "--reshard", out]
        code = unshard(["download", store.presigned_url(), files, *more, *options])
    if code:
        raise SystemExit(code)
    for folder in folders:
        shutil.rmtree(folder)
    return max(peak), left[0]


@contextmanager
def watched(left: list[float]) -> Iterator[None]:
    show = Behind.show

    def noted(behind: Behind) -> None:
        left.append(1 - behind.done_bytes / behind.total_bytes)
        show(behind)

    with mock.patch.object(Behind, "show", noted):
        yield


@contextmanager
def sampled(folders: list[Path]) -> Iterator[list[int]]:
    samples: list[int] = [0]
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(SECONDS_BETWEEN_SAMPLES):
            samples.append(sum(map(occupied, folders)))

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield samples
    finally:
        ended.set()
        thread.join()


def occupied(folder: Path) -> int:
    """What lies in the folder (bytes), whatever is removed meanwhile."""
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.stat().st_blocks * 512
        except FileNotFoundError:
            continue
    return total


if __name__ == "__main__":
    main()
