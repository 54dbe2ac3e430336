"""Manifests of one line per file: Meta's CSV, and what GNU and BSD tools print."""

from __future__ import annotations

import re

from unshard.manifest.entries import Entries, digest_of

_CSV_HEADER = "shard,md5sum"
_CSV_LINE = re.compile(r"(?P<name>[^,]+),(?P<value>[^,]+)")
_GNU_LINE = re.compile(r"(?P<value>\S+) [ *](?P<name>.+)")
_BSD_LINE = re.compile(r"(?P<tag>MD5|SHA256) \((?P<name>.+)\) = (?P<value>\S+)")
_NO_FORM = (
    "neither `name,md5` under a `shard,md5sum` header nor `digest  name` nor `MD5 (name) = digest`"
)


def parse_lines(text: str) -> Entries:
    """The entries in `text`, with what is wrong with any of them."""
    lines = [line.removesuffix("\r") for line in text.split("\n")]
    is_csv = lines[0] == _CSV_HEADER
    entries = Entries("line")
    for number, line in enumerate(lines, start=1):
        if not line or (is_csv and number == 1):
            continue
        match = _CSV_LINE.fullmatch(line) if is_csv else _match_line(line)
        if match is None:
            entries.fault(number, _NO_FORM)
        else:
            algorithm = "md5" if is_csv else match.groupdict().get("tag")
            digest = digest_of(match["value"], algorithm and algorithm.lower())
            entries.add(number, match["name"], digest)
    return entries


def _match_line(line: str) -> re.Match[str] | None:
    return _BSD_LINE.fullmatch(line) or _GNU_LINE.fullmatch(line)
