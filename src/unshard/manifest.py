"""Manifests: which files there are and what their bytes must hash to.

Three forms are read: Meta's CSV (`shard,md5sum`, as published for OPT-175B and OPT-66B) and
the lines of GNU `md5sum` (Llama's `checklist.chk` too) or of BSD `md5`, which may be mixed.
"""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from unshard.errors import FormatError, UsageError

MAX_MANIFEST_BYTES = 16 * 2**20
"""Far above any real manifest; a larger file was given by mistake."""

PARTIAL_SUFFIX = ".partial"
"""A file whose name ends so has not arrived in full; no manifest may name one."""

_CSV_HEADER = "shard,md5sum"
_MD5 = re.compile(r"[0-9a-fA-F]{32}")
_CSV_LINE = re.compile(r"(?P<name>[^,]+),(?P<md5>[^,]+)")
_GNU_LINE = re.compile(r"(?P<md5>\S+) [ *](?P<name>.+)")
_BSD_LINE = re.compile(r"MD5 \((?P<name>.+)\) = (?P<md5>\S+)")


@dataclass(frozen=True, slots=True)
class Digest:
    """A hash of a file's bytes: a `hashlib` algorithm and lower-case hex."""

    algorithm: str
    value: str

    def __str__(self) -> str:
        return f"{self.algorithm} {self.value}"


class Manifest(Mapping[str, Digest]):
    """File names and their digests, in the order of `source` (the path it was read from)."""

    def __init__(self, digests: Mapping[str, Digest], source: str) -> None:
        self._digests = dict(digests)
        self.source = source

    def __getitem__(self, name: str) -> Digest:
        return self._digests[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._digests)

    def __len__(self) -> int:
        return len(self._digests)

    def shared_digests(self) -> tuple[tuple[str, ...], ...]:
        """The names that have one digest between them, group by group.

        Files of different weights never do, so a manifest with such a group is most likely
        wrong about all but one of it: Meta's list for OPT-66B gives parts 5 and 6 one md5.
        """
        names: dict[Digest, list[str]] = {}
        for name, digest in self._digests.items():
            names.setdefault(digest, []).append(name)
        return tuple(tuple(group) for group in names.values() if len(group) > 1)


def read_manifest(path: str | Path) -> Manifest:
    """The manifest in the file `path`, in Meta's CSV, GNU `md5sum` or BSD `md5` form.

    Raises:
        UsageError: there is no such file, or it cannot be read.
        FormatError: a line is malformed, a name comes twice or would leave its folder.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_MANIFEST_BYTES + 1)
    except OSError as error:
        raise UsageError(f"{path}: cannot read the manifest: {error.strerror}") from error
    if len(raw) > MAX_MANIFEST_BYTES:
        raise FormatError(path, f"larger than {MAX_MANIFEST_BYTES} bytes: not a manifest")
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise FormatError(path, f"byte {error.start} is not UTF-8: not a manifest") from error
    return parse_manifest(text, str(path))


def parse_manifest(text: str, source: str) -> Manifest:
    """The manifest written in `text`; `source` is what errors call it.

    Raises:
        FormatError: as in `read_manifest`.
    """
    lines = [line.removesuffix("\r") for line in text.split("\n")]
    is_csv = lines[0] == _CSV_HEADER
    digests: dict[str, Digest] = {}
    for number, line in enumerate(lines, start=1):
        if not line or (is_csv and number == 1):
            continue
        match = _CSV_LINE.fullmatch(line) if is_csv else _match_line(line)
        problem = _line_problem(match, digests)
        if match is None or problem:
            raise FormatError(source, f"line {number}: {problem}")
        digests[match["name"]] = Digest("md5", match["md5"].lower())
    if not digests:
        raise FormatError(source, "names no file")
    return Manifest(digests, source)


def md5sum_lines(manifest: Manifest) -> str:
    """`manifest` as `md5sum -c` reads it; no name in a manifest needs its escapes."""
    return "".join(f"{digest.value}  {name}\n" for name, digest in manifest.items())


def _match_line(line: str) -> re.Match[str] | None:
    return _BSD_LINE.fullmatch(line) or _GNU_LINE.fullmatch(line)


def _line_problem(match: re.Match[str] | None, seen: Mapping[str, Digest]) -> str | None:
    if match is None:
        return (
            "neither `name,md5` under a `shard,md5sum` header nor `md5  name` nor "
            "`MD5 (name) = md5`"
        )
    if not _MD5.fullmatch(match["md5"]):
        return f"{match['md5'][:80]!r} is not an md5 (32 hexadecimal digits)"
    if match["name"] in seen:
        return f"{match['name']!r} comes twice"
    return file_name_problem(match["name"])


def file_name_problem(name: str) -> str | None:
    """Why `name` must not become a file in a folder of weights, or None when it may.

    Names come from manifests and URLs that others wrote: one must not leave the folder,
    hide in it, or pass for the half-arrived form of another.
    """
    if "/" in name or "\\" in name:
        return f"{name!r} has a path separator"
    if not name or name.startswith("."):
        return f"{name!r} is empty or begins with a dot"
    if not name.isprintable():
        return f"{name!r} has a control character"
    if name.endswith(PARTIAL_SUFFIX):
        return f"{name!r} ends in {PARTIAL_SUFFIX}"
    if len((name + PARTIAL_SUFFIX).encode()) > 255:
        return f"{name[:40]!r}… is too long for a file name"
    return None


def digest_file(path: Path, algorithm: str, advance: Callable[[int], None]) -> Digest:
    """Hash the file `path`; `advance` hears of every read and may raise to stop.

    Raises:
        OSError: the file cannot be read.
    """
    with path.open("rb", buffering=0) as file:
        counted = _CountedReader(file, advance)
        value = hashlib.file_digest(counted, algorithm).hexdigest()
    return Digest(algorithm, value)


class _CountedReader:
    """As much of a binary file as `hashlib.file_digest` asks for, counting what it reads."""

    def __init__(self, file: io.FileIO, advance: Callable[[int], None]) -> None:
        self._file = file
        self._advance = advance

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray) -> int:
        num_bytes = self._file.readinto(buffer)
        self._advance(num_bytes)
        return num_bytes
