"""Answers as JSON lines, in the order of the input, so that a run goes on where another ended."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from io import FileIO, RawIOBase
from pathlib import Path
from typing import Any, BinaryIO

from unshard.disk import take_lock
from unshard.errors import DestinationError, FormatError, NoSpaceError
from unshard.strict_json import parse_json_object

TOTAL = "total"
"""The only key of the last line, where an output has one; every other line has an `id`."""
_BEGINNINGS = (b'{"id": ', b'{"total": ')


class AnswerLines:
    """A stream of answers. What an earlier run wrote to a file is kept."""

    def __init__(self, name: str, stream: RawIOBase | BinaryIO, past: Path | None = None) -> None:
        """`past` is the file that `stream` writes to, if it is one that may hold answers."""
        self._name = name
        self._stream = stream
        self._past = past

    def kept(self) -> Iterator[dict[str, Any]]:
        """The answers of earlier runs. Once all were taken, a torn last line and a total are cut
        off; until then the file is as it was.

        Raises:
            FormatError: the file holds something else than answers.
        """
        if self._past is None:
            return
        end = 0
        with self._past.open("rb") as past:
            for number, raw in enumerate(past, 1):
                where = f"{self._name}, line {number}"
                if not any(raw.startswith(start[: len(raw)]) for start in _BEGINNINGS):
                    raise _foreign(where)
                if not raw.endswith(b"\n"):
                    break
                answer = parse_json_object(where, raw)
                if answer.keys() == {TOTAL}:
                    if past.read(1):
                        raise _foreign(where)
                    break
                end += len(raw)
                yield answer
        if self._stream.seek(0, os.SEEK_END) != end:  # a device cannot be cut
            self._stream.seek(end)
            self._stream.truncate()

    def write(self, answer: Mapping[str, object]) -> None:
        """One more line, handed to the system at once: who is killed has lost no line.

        Raises:
            NoSpaceError: the disk is full; all before this line is there.
        """
        rest = memoryview(json.dumps(answer).encode() + b"\n")
        try:
            while rest:
                rest = rest[self._stream.write(rest) or 0 :]
            self._stream.flush()
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            raise NoSpaceError(
                f"{self._name}: the disk is full",
                hint="make room and run the same command again: it continues from here",
            ) from error


@contextmanager
def answers_in(path: Path) -> Iterator[AnswerLines]:
    """Those in the file `path`, made where there is none, for one process at a time.

    Raises:
        DestinationError: another process writes to it, or it cannot be written.
    """
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    except OSError as error:
        raise DestinationError(f"{path}: cannot be written: {error.strerror}") from error
    with FileIO(descriptor, "r+") as file:
        try:
            take_lock(file.fileno())
        except BlockingIOError as error:
            raise DestinationError(
                f"{path}: another process is writing to this file",
                hint="wait for it, or choose another file",
            ) from error
        yield AnswerLines(str(path), file, path)


def _foreign(where: str) -> FormatError:
    return FormatError(
        where,
        "is not an answer of an earlier run",
        hint="give --output the name of a new file, or of one that this command wrote",
    )
