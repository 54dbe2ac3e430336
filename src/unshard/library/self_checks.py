"""What the files of a folder prove by themselves: checksums in archives, a fingerprint that a
reshard recorded beside its output."""

from __future__ import annotations

import os
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from unshard.architectures.opt import weight_names
from unshard.errors import FormatError, IntegrityError, UnshardError
from unshard.execute.checksums import crc32
from unshard.execute.fingerprint import fingerprint
from unshard.execute.journal import recorded_fingerprint
from unshard.formats.regular_file import open_regular
from unshard.formats.zip_directory import Member, read_zip_directory
from unshard.library.findings import ArchivesReport, FingerprintReport
from unshard.progress import Progress, Silent
from unshard.tensors import ByteRange, TensorIndex
from unshard.verify import Difference

PIECE_BYTES = 2**20


def check_archives(
    paths: list[Path], *, proved: Iterable[ByteRange] = (), progress: Progress | None = None
) -> ArchivesReport:
    """Read every record of the archives `paths`, as many at once as there are cores; but not
    those that `proved` covers to the last byte, whose content is known to be right."""
    progress = progress or Silent()
    damage: dict[Path, str] = {}
    work: list[tuple[Path, Member]] = []
    proved_in: dict[str, set[ByteRange]] = {}
    for each in proved:
        proved_in.setdefault(each.path, set()).add(each)
    for path in paths:
        try:
            members = read_zip_directory(path).values()
            work += [(path, each) for each in _unproved(members, proved_in.get(str(path), ()))]
        except FormatError as error:
            damage[path] = error.problem
    num_bytes = sum(member.length for _, member in work)
    progress.start("check archives", num_bytes)
    executor = ThreadPoolExecutor(os.cpu_count() or 1, thread_name_prefix="archives")
    try:
        problems = executor.map(lambda each: _problem(each[0], each[1], progress), work)
        for (path, _), problem in zip(work, problems, strict=True):
            if problem:
                damage.setdefault(path, problem)
    finally:
        executor.shutdown(cancel_futures=True)
    return ArchivesReport(
        str(paths[0].parent) if paths else "",
        tuple(path.name for path in paths if path not in damage),
        tuple(Difference(path.name, damage[path]) for path in paths if path in damage),
        num_bytes,
    )


def _unproved(members: Iterable[Member], proved: Iterable[ByteRange]) -> list[Member]:
    """Those of one file's `members` of which `proved`, in parts of them, leaves anything out."""
    in_order = sorted(members, key=lambda member: member.offset)
    left = [member.length for member in in_order]
    for each in proved:
        left[bisect_right(in_order, each.offset, key=lambda member: member.offset) - 1] -= (
            each.length
        )
    return [member for member, num_bytes in zip(in_order, left, strict=True) if num_bytes]


def _problem(path: Path, member: Member, progress: Progress) -> str | None:
    offset, end, crc = member.offset, member.offset + member.length, 0
    try:
        with open_regular(str(path)) as descriptor:
            while offset < end and (
                piece := os.pread(descriptor, min(PIECE_BYTES, end - offset), offset)
            ):
                crc = crc32(piece, crc)
                offset += len(piece)
                progress.advance(len(piece))
    except FormatError as error:
        return error.problem
    if offset == end and crc == member.crc32:
        return None
    return f"record {member.name} is damaged: it does not give the CRC-32 stored with it"


def check_fingerprint(
    directory: Path, index: TensorIndex | UnshardError, *, progress: Progress | None = None
) -> FingerprintReport | None:
    """None where none is recorded, or one of another version. `index` is of the weights in
    `directory`, or says why they do not open.

    Raises:
        FormatError: `unshard.json` is malformed.
    """
    recorded = recorded_fingerprint(directory)
    if recorded is None:
        return None
    if isinstance(index, UnshardError):
        return FingerprintReport(str(directory), recorded, None, index.message)
    try:
        found = fingerprint(index, progress=progress).model
    except IntegrityError as error:
        return FingerprintReport(str(directory), recorded, None, error.message)
    return FingerprintReport(str(directory), recorded, found)


def fingerprinted(index: TensorIndex) -> Iterator[ByteRange]:
    """All that a fingerprint reads of `index`."""
    for name in weight_names(index):
        yield from index[name].ranges()
