"""Files that have the headers of a checkpoint's, and holes for the rest, before it is fetched.

The index reads headers only. Two or three ranges of each file are enough to draw them, so a
plan can be made of a download that has hardly begun. When a file has arrived, `same_headers`
tells whether the plan is good for it.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

from unshard.download.disk import disk_errors
from unshard.download.pieces import Pieces
from unshard.errors import CheckpointError, FormatError
from unshard.formats.safetensors import read_safetensors
from unshard.formats.zip_directory import read_zip_directory, zip_members
from unshard.formats.zip_outline import directory_offset, draw_headers

HEAD_BYTES = 256 << 10
"""Fetched from the front of each file: with it the pickle of most, and all of a small one."""
TAIL_BYTES = 64 << 10
"""Fetched from the end of an archive: the directory of most."""
LARGEST_BYTES = 64 << 20
"""More than any headers take: a file that wants it lies, or is none of a checkpoint."""
ARCHIVES = (".pt", ".bin")
WEIGHTS = (*ARCHIVES, ".safetensors")
COMPANIONS = (".json", ".txt")
"""Beside the weights may lie a configuration and a tokenizer."""


def make_stand_ins(
    pieces: Pieces, names: Iterable[str], folder: Path, directory: Path, *, workers: int
) -> None:
    """Makes `folder` look like `directory` will when all `names` are there.

    Raises:
        FormatError: a file's headers are not as torch or safetensors writes them.
        TransferError, LinkRefusedError: as `Pieces.read`.
        NoSpaceError, DestinationError: `folder` cannot be written.
    """
    with disk_errors(folder):
        folder.mkdir(exist_ok=True)
        missing = [name for name in names if not (folder / name).exists()]
        pool = ThreadPoolExecutor(workers, thread_name_prefix="headers")
        try:
            for _ in pool.map(lambda name: _make(pieces, name, folder), missing):
                pass
        finally:
            pieces.stop()
            pool.shutdown(cancel_futures=True)
        for path in directory.iterdir():
            if path.suffix in COMPANIONS and path.is_file() and not path.name.startswith("."):
                shutil.copyfile(path, folder / path.name)


def _make(pieces: Pieces, name: str, folder: Path) -> None:
    """A file that is there is finished: until then it has another name, in each process one of
    its own."""
    begun = folder / f"{name}.{os.getpid()}.begun"
    descriptor = os.open(begun, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o666)
    try:
        _StandIn(pieces, name, str(folder / name), descriptor).fill()
    finally:
        os.close(descriptor)
    begun.rename(folder / name)


class _StandIn:
    def __init__(self, pieces: Pieces, name: str, path: str, descriptor: int) -> None:
        self._pieces, self._name, self._path = pieces, name, path
        self._descriptor = descriptor
        self._size_bytes = 0

    def fill(self) -> None:
        self._fetch(0, HEAD_BYTES)
        if self._size_bytes <= HEAD_BYTES:
            return
        suffix = Path(self._name).suffix
        if suffix in ARCHIVES:
            self._fill_archive()
        elif suffix == ".safetensors":
            self._fetch(HEAD_BYTES, _header_bytes(self._descriptor))
        else:
            self._fetch(HEAD_BYTES, self._size_bytes)

    def _fill_archive(self) -> None:
        tail = max(HEAD_BYTES, self._size_bytes - TAIL_BYTES)
        self._fetch(tail, self._size_bytes)
        self._fetch(directory_offset(self._path, self._descriptor), tail)
        draw_headers(self._path, self._descriptor)
        for name, member in zip_members(self._path, self._descriptor).items():
            if name.partition("/")[2] in ("data.pkl", "byteorder"):
                start = max(member.offset, HEAD_BYTES)
                self._fetch(start, member.offset + member.length)

    def _fetch(self, start: int, stop: int) -> None:
        if start >= stop:
            return
        if stop - start > LARGEST_BYTES:
            raise FormatError(self._path, f"says that its headers take {stop - start} bytes")
        piece = self._pieces.read(self._name, start, stop - start)
        if self._size_bytes not in (0, piece.size_bytes):
            raise CheckpointError(f"{self._name}: changed on the server meanwhile")
        self._size_bytes = piece.size_bytes
        os.truncate(self._descriptor, piece.size_bytes)
        os.pwrite(self._descriptor, piece.content, start)


def _header_bytes(descriptor: int) -> int:
    """Where the header of a safetensors file ends."""
    return 8 + int.from_bytes(os.pread(descriptor, 8, 0), "little")


def check_same_headers(stand_in: Path, path: Path) -> None:
    """
    Raises:
        CheckpointError: the file at `path` is not the one that `stand_in` stands for.
        FormatError: it is damaged.
    """
    if stand_in.stat().st_size == path.stat().st_size and _same_headers(stand_in, path):
        return
    raise CheckpointError(
        f"{path}: is another file than the one whose headers were read before",
        hint=f"delete {stand_in.parent} and the output, and run the command again",
    )


def _same_headers(stand_in: Path, path: Path) -> bool:
    if path.suffix in ARCHIVES:
        return read_zip_directory(stand_in) == read_zip_directory(path)
    if path.suffix == ".safetensors":
        return _places(stand_in) == _places(path)
    return stand_in.read_bytes() == path.read_bytes()


def _places(path: Path) -> list[tuple[object, ...]]:
    return [
        (ref.name, ref.dtype, ref.shape, ref.ranges[0].offset)
        for ref in read_safetensors(path).values()
    ]


def forget_stand_ins(folder: Path) -> None:
    """Removes them all."""
    with suppress(FileNotFoundError):
        shutil.rmtree(folder)
