"""Manifests of one line per file: Meta's CSV, and what GNU and BSD tools print.

As `md5sum -c` does, we read `MD5(name)= digest` of openssl and `digest name` of BSD's `md5 -r`,
skip lines that begin with `#`, and take `./name` for `name`.
"""

from __future__ import annotations

import re

from unshard.manifest.entries import Entries, digest_of

_CSV_HEADER = "shard,md5sum"
_CSV_LINE = re.compile(r"(?P<name>[^,]+),(?P<value>[^,]+)")
_GNU_LINE = re.compile(r"(?P<value>[^\s\\]\S*) [ *](?P<name>.+)")
_BSD_LINE = re.compile(r"(?P<tag>MD5|SHA256) ?\((?P<name>.+)\) ?= (?P<value>\S+)")
_REVERSED_LINE = re.compile(r"(?P<value>[0-9a-fA-F]{32,}) (?P<name>.+)")
_ESCAPED_LINE = re.compile(r"\\[0-9a-fA-F]+ .*")
_ESCAPED = "is of a name with a line end or a backslash in it, which no file of weights may have"
_NO_FORM = (
    "neither `name,md5` under a `shard,md5sum` header nor `digest  name` nor `MD5 (name) = digest`"
)


def parse_lines(text: str) -> Entries:
    """The entries in `text`, with what is wrong with any of them."""
    lines = [line.removesuffix("\r") for line in text.split("\n")]
    is_csv = lines[0] == _CSV_HEADER
    entries = Entries("line")
    for number, line in enumerate(lines, start=1):
        if not line or (number == 1 if is_csv else line.startswith("#")):
            continue
        match = _CSV_LINE.fullmatch(line) if is_csv else _match_line(line)
        if match is None:
            entries.fault(number, _ESCAPED if _ESCAPED_LINE.fullmatch(line) else _NO_FORM)
        else:
            algorithm = "md5" if is_csv else match.groupdict().get("tag")
            digest = digest_of(match["value"], algorithm and algorithm.lower())
            entries.add(number, match["name"].removeprefix("./"), digest)
    return entries


def _match_line(line: str) -> re.Match[str] | None:
    forms = (_BSD_LINE, _GNU_LINE, _REVERSED_LINE)
    return next((match for form in forms if (match := form.fullmatch(line))), None)
