"""Collecting a manifest entry by entry, and with it everything that is wrong with it."""

from __future__ import annotations

import re
import unicodedata

from unshard.errors import FormatError
from unshard.manifest.contents import HEX_DIGITS, Digest, Manifest
from unshard.manifest.file_name import file_name_problem

MAX_TOLD = 10
"""How many faulty entries a message names; it counts the others."""

_HEX = re.compile(r"[0-9a-fA-F]*")


class Entries:
    """The files that a manifest names so far. `kind` is what one entry of it is called."""

    def __init__(self, kind: str) -> None:
        self._kind = kind
        self._digests: dict[str, Digest] = {}
        self._sizes: dict[str, int] = {}
        self._spellings: set[str] = set()
        """The names in Unicode's composed form, in which those that look alike are alike."""
        self._faults: list[tuple[int, str]] = []

    def fault(self, number: int, problem: str) -> None:
        """Entry `number` is malformed; the others are read nevertheless."""
        self._faults.append((number, problem))

    def add(
        self, number: int, name: str, digest: Digest | str, size_bytes: int | None = None
    ) -> None:
        """Take in entry `number`; `digest` may be the problem that it is none."""
        if isinstance(digest, str):
            self.fault(number, digest)
        elif name in self._digests:
            two = "" if digest == self._digests[name] else ", with two digests"
            self.fault(number, f"{name!r} comes twice{two}")
        elif problem := file_name_problem(name):
            self.fault(number, problem)
        elif (composed := unicodedata.normalize("NFC", name)) in self._spellings:
            self.fault(number, f"{name!r} comes twice, composed of other characters")
        else:
            self._spellings.add(composed)
            self._digests[name] = digest
            if size_bytes is not None:
                self._sizes[name] = size_bytes

    def manifest(self, source: str) -> Manifest:
        """
        Raises:
            FormatError: an entry is malformed, or there is none.
        """
        if self._faults:
            raise FormatError(source, self._told())
        if not self._digests:
            raise FormatError(source, "names no file")
        return Manifest(self._digests, source, self._sizes)

    def _told(self) -> str:
        """The first faults in one line, those with one cause together."""
        by_problem: dict[str, list[int]] = {}
        for number, problem in self._faults[:MAX_TOLD]:
            by_problem.setdefault(problem, []).append(number)
        told = [
            f"{self._kind}{'s' * (len(numbers) > 1)} {', '.join(map(str, numbers))}: {problem}"
            for problem, numbers in by_problem.items()
        ]
        if (rest := len(self._faults) - MAX_TOLD) > 0:
            told.append(f"and {rest} more")
        return "; ".join(told)


def digest_of(value: str, algorithm: str | None) -> Digest | str:
    """The digest that is written `value`, or why it is none. Without an `algorithm`, its length
    says which."""
    length = len(value) if _HEX.fullmatch(value) else None
    for known, digits in HEX_DIGITS.items():
        if length == digits and algorithm in (None, known):
            return Digest(known, value.lower())
    expected = " or ".join(
        f"{'an' if known == 'md5' else 'a'} {known} ({digits} hexadecimal digits)"
        for known, digits in HEX_DIGITS.items()
        if algorithm in (None, known)
    )
    return f"{value[:80]!r} is not {expected}"
