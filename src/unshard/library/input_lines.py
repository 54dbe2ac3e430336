"""Documents and requests in a file, one a line; what is wrong with one line is that line's."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from unshard.errors import FormatError, UsageError
from unshard.strict_json import MAX_JSON_BYTES, parse_json_object


@dataclass(frozen=True, slots=True)
class InputLine:
    """One line of input: its fields, or the error that it is instead."""

    id: str | int
    """What the line says, or its number, from 1."""
    where: str
    """File and line, for errors."""
    number: int
    """In the file, from 1."""
    num_bytes: int
    """With its end."""
    fields: Mapping[str, Any] = field(default_factory=dict)
    error: FormatError | None = None

    def text(self, name: str) -> str:
        """The text in the field `name`.

        Raises:
            FormatError: there is none, or it is not text.
        """
        found = self.fields.get(name)
        if not isinstance(found, str):
            problem = "is not a string" if name in self.fields else "is missing"
            raise FormatError(self.where, f"the field {name} {problem}")
        if any("\ud800" <= character <= "\udfff" for character in found):
            raise FormatError(self.where, f"{name} holds half a surrogate pair, which is not text")
        return found


@dataclass(frozen=True, slots=True)
class Input:
    """All of a file, or of stdin."""

    name: str
    path: Path | None
    """None for what stdin held, which is in `content`."""
    content: bytes
    num_bytes: int

    @classmethod
    def open(cls, argument: str) -> Input:
        """The file `argument`; `-` is stdin, which is read to its end.

        Raises:
            UsageError: there is no such file, or it is a folder or a pipe.
        """
        if argument == "-":
            content = sys.stdin.buffer.read()
            return cls("stdin", None, content, len(content))
        path = Path(argument)
        if not path.exists():
            raise UsageError(f"{argument}: no such file", hint="give a file, or `-` for stdin")
        if not path.is_file():
            raise UsageError(f"{argument}: is not a file", hint="`-` reads a pipe from stdin")
        return cls(argument, path, b"", path.stat().st_size)

    def json_lines(self) -> Iterator[InputLine]:
        """An object in each line that is not blank; its `id` is a string or an integer."""
        for number, raw in enumerate(self._lines(), 1):
            if raw.strip():
                yield _json_line(raw, number, f"{self.name}, line {number}")

    def text_lines(self) -> Iterator[InputLine]:
        """Every line as the field `text`, without its end (`\\n` or `\\r\\n`)."""
        for number, raw in enumerate(self._lines(), 1):
            text = raw.removesuffix(b"\n").removesuffix(b"\r")
            yield _text_line(text, len(raw), number, f"{self.name}, line {number}")

    def whole(self) -> Iterator[InputLine]:
        """All of it as the field `text` of one line, as it is."""
        content = self.path.read_bytes() if self.path else self.content
        yield _text_line(content, len(content), 1, self.name)

    def _lines(self) -> Iterator[bytes]:
        with self.path.open("rb") if self.path else io.BytesIO(self.content) as file:
            yield from file


def _text_line(text: bytes, num_bytes: int, number: int, where: str) -> InputLine:
    try:
        return InputLine(number, where, number, num_bytes, {"text": text.decode()})
    except UnicodeDecodeError:
        return InputLine(
            number, where, number, num_bytes, error=FormatError(where, "is not UTF-8 text")
        )


def _json_line(raw: bytes, number: int, where: str) -> InputLine:
    try:
        if len(raw) > MAX_JSON_BYTES:
            raise FormatError(where, f"is longer than {MAX_JSON_BYTES} bytes")
        fields = parse_json_object(where, raw)
        name = number if fields.get("id") is None else fields["id"]
        if isinstance(name, bool) or not isinstance(name, str | int):
            raise FormatError(where, "the field id is neither a string nor an integer")
    except FormatError as error:
        return InputLine(number, where, number, len(raw), error=error)
    return InputLine(name, where, number, len(raw), fields)
