"""What the files of a folder prove by themselves: checksums in archives, a fingerprint that a
reshard recorded beside its output."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from unshard.errors import FormatError, IntegrityError, UnshardError
from unshard.execute.checksums import crc32
from unshard.execute.fingerprint import VERSION, fingerprint
from unshard.execute.journal import NAME
from unshard.formats.json_object import read_json_object
from unshard.formats.regular_file import open_regular
from unshard.formats.zip_directory import Member, read_zip_directory
from unshard.library.findings import ArchivesReport, FingerprintReport
from unshard.progress import Progress, Silent
from unshard.tensors import TensorIndex
from unshard.verify import Difference

PIECE_BYTES = 2**20


def check_archives(paths: list[Path], *, progress: Progress | None = None) -> ArchivesReport:
    """Read every record of the archives `paths`, as many at once as there are cores."""
    progress = progress or Silent()
    damage: dict[Path, str] = {}
    work: list[tuple[Path, Member]] = []
    for path in paths:
        try:
            work += [(path, member) for member in read_zip_directory(path).values()]
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
    path = directory / NAME
    match read_json_object(path).get("fingerprint") if path.exists() else None:
        case {"version": version, "model": str(recorded)} if version == VERSION:
            pass
        case _:
            return None
    if isinstance(index, UnshardError):
        return FingerprintReport(str(directory), recorded, None, index.message)
    try:
        found = fingerprint(index, progress=progress).model
    except IntegrityError as error:
        return FingerprintReport(str(directory), recorded, None, error.message)
    return FingerprintReport(str(directory), recorded, found)
