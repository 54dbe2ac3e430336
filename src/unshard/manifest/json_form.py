"""Our own form of a manifest, described in docs/verify.md: it knows lengths too."""

from __future__ import annotations

from typing import Any

from unshard.errors import FormatError
from unshard.manifest.contents import HEX_DIGITS, Digest
from unshard.manifest.entries import Entries, digest_of
from unshard.strict_json import parse_json_object

FORMAT = "unshard-manifest"
VERSION = 1


def parse_json_form(text: str, source: str) -> Entries:
    """The entries in `text`, with what is wrong with any of them; they count from 1.

    Raises:
        FormatError: it is no such manifest.
    """
    found = parse_json_object(source, text.encode())
    if found.get("format") != FORMAT:
        raise FormatError(source, f'is JSON without "format": "{FORMAT}": not a manifest')
    version, files = found.get("version"), found.get("files")
    if type(version) is not int or version != VERSION:
        raise FormatError(
            source,
            f'"version" is not {VERSION}, the only one that is known',
            hint="a newer unshard may read it",
        )
    if not isinstance(files, list):
        raise FormatError(source, '"files" is no list')
    entries = Entries("file")
    for number, file in enumerate(files, start=1):
        _add(entries, number, file)
    return entries


def _add(entries: Entries, number: int, file: Any) -> None:
    match file:
        case {"name": str(name), "digests": dict(digests)}:
            size = file.get("size_bytes")
            if size is not None and (type(size) is not int or size < 0):
                entries.fault(number, '"size_bytes" is no number of bytes')
            else:
                entries.add(number, name, _strongest(digests), size)
        case _:
            entries.fault(number, 'has no "name" with "digests"')


def _strongest(digests: dict[str, Any]) -> Digest | str:
    """The last algorithm that we know of; each that is there must be well-formed."""
    found: Digest | str = f"has no digest of {' or '.join(HEX_DIGITS)}"
    for algorithm in HEX_DIGITS:
        if algorithm in digests:
            value = digests[algorithm]
            found = digest_of(value if isinstance(value, str) else "", algorithm)
            if isinstance(found, str):
                break
    return found
