"""Bytes of tokens to text, as they come: a delta never ends in half a character."""

from __future__ import annotations

import codecs

_UTF8 = codecs.getincrementaldecoder("utf-8")


class Detokenizer:
    """Joins the bytes of tokens and lets whole characters out.

    The deltas joined equal the UTF-8 decoding of all bytes at once, with U+FFFD for what is
    no UTF-8.
    """

    def __init__(self) -> None:
        self._decoder = _UTF8("replace")

    def push(self, data: bytes) -> str:
        """Characters that `data` completes."""
        return self._decoder.decode(data)

    def finish(self) -> str:
        """What is left: empty, or U+FFFD for a character that was never completed."""
        return self._decoder.decode(b"", final=True)
