"""Many files hashed at the speed of all cores."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from unshard.digest.lanes import NUM_LANES, lane_worker
from unshard.digest.queue import Queue, Result, open_file

LANES_PAY_BYTES = 2**28
"""Below this, hashlib is done before LLVM is loaded and has made the kernel, in 0.1 s."""
LANES_PAY_FILES = 4
"""So many files for each core: fewer lanes are slower than hashlib."""

_READ_BYTES = 2**18


def hash_files(
    paths: Iterable[Path],
    algorithm: str,
    *,
    advance: Callable[[int], None],
    workers: int | None = None,
    of_bytes: int = 0,
) -> Iterator[Result]:
    """Hash `paths` with `workers` threads (default: as many as cores), in order of completion.

    MD5 of many bytes in many files goes through SIMD lanes where llvmlite is installed, all else
    through hashlib, which frees the GIL. Where these are a part of the work only, `of_bytes` is
    the size of all of it. Memory is constant. A file that cannot be read yields
    its OSError. `advance` hears of every read in bytes, from the workers' threads; what it
    raises stops all and is raised here.

    Raises:
        ValueError: hashlib does not know `algorithm`.
    """
    hashlib.new(algorithm, usedforsecurity=False)
    workers = workers or os.cpu_count() or 1
    sizes = {path: _size(path) for path in paths}
    largest_first = sorted(sizes, key=lambda path: -sizes[path])
    queue = Queue(largest_first, advance)
    num_bytes = max(of_bytes, sum(sizes.values()))
    worker, workers = _worker(queue, algorithm, num_bytes, len(sizes), workers)
    with ThreadPoolExecutor(workers, thread_name_prefix="hash") as executor:
        try:
            for _ in range(workers):
                executor.submit(queue.run, worker)
            yield from queue.results(workers)
        finally:
            queue.stop()


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0  # told when it is opened


def _worker(
    queue: Queue, algorithm: str, num_bytes: int, num_files: int, workers: int
) -> tuple[Callable[[], None], int]:
    """What each thread does, and how many do it: lanes where they pay, a thread for each set of
    full ones, since empty lanes take as long; else one file after the other."""
    threads = max(1, min(workers, -(-num_files // NUM_LANES)))
    if _lanes_pay(algorithm, num_bytes, num_files, workers):
        worker = lane_worker(queue, -(-num_files // threads))
        if worker is not None:
            return worker, threads
    return lambda: hash_one_by_one(queue, algorithm), workers


def _lanes_pay(algorithm: str, num_bytes: int, num_files: int, workers: int) -> bool:
    is_large = num_bytes >= LANES_PAY_BYTES and num_files > workers * (LANES_PAY_FILES - 1)
    return algorithm == "md5" and is_large


def hash_one_by_one(queue: Queue, algorithm: str) -> None:
    """Hash files of `queue` until it is empty."""
    buffer = bytearray(_READ_BYTES)
    while path := queue.take():
        queue.settle(path, hash_file(path, algorithm, buffer, advance=queue.advance))


def hash_file(
    path: Path,
    algorithm: str,
    buffer: bytearray | None = None,
    *,
    advance: Callable[[int], None],
) -> str | OSError:
    """The digest, or why the file cannot be read; what `advance` raises is not the file's."""
    buffer = buffer or bytearray(_READ_BYTES)
    digest, view = hashlib.new(algorithm, usedforsecurity=False), memoryview(buffer)
    try:
        fd = open_file(path)
    except OSError as error:
        return error
    try:
        while True:
            try:
                num_bytes = os.readv(fd, [buffer])
            except OSError as error:
                return error
            if not num_bytes:
                return digest.hexdigest()
            advance(num_bytes)
            digest.update(view[:num_bytes])
    finally:
        os.close(fd)
