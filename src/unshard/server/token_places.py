"""Tokens as strings, and where each begins in its text."""

from __future__ import annotations

import codecs
from collections import deque
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from unshard.engine.request import ScoredToken
from unshard.server.served import Tokenizer


class PlacedToken(NamedTuple):
    """A token and the character of the text that it begins at."""

    offset: int
    token: ScoredToken


def token_string(token_id: int, tokenizer: Tokenizer) -> str:
    """One token as a string that no other token has.

    A token that is a part of a character is written `bytes:\\xe2\\x80`, as OpenAI's API does:
    as U+FFFD, two of them would be one key of `top_logprobs`. One without text has its name.
    """
    raw = tokenizer.token_bytes(token_id)
    if not raw:
        return tokenizer.display(token_id)
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in raw)


def named_alternatives(
    alternatives: Sequence[tuple[int, float]], tokenizer: Tokenizer
) -> dict[str, float]:
    """Logprobs of the best tokens of a place by their strings, in their order."""
    return {token_string(token_id, tokenizer): logprob for token_id, logprob in alternatives}


class TextOffsets:
    """Where tokens begin in the text they make up, in characters.

    A token that goes on with a character begins where that character does, so the text
    between consecutive offsets always adds up to the whole text.
    """

    def __init__(self, tokenizer: Tokenizer, start: int = 0) -> None:
        self._tokenizer = tokenizer
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._length = start

    def advance(self, token_id: int) -> int:
        """The offset of the next token, `token_id`."""
        offset = self._length
        self._length += len(self._decoder.decode(self._tokenizer.token_bytes(token_id)))
        return offset


class TokenPlaces:
    """The tokens of one continuation as it grows, with their places.

    A token is reported once the text it begins in has been sent, and the rest at the end,
    so no offset lies beyond the text: a stop string may cut text off whose tokens are known.
    """

    def __init__(self, tokenizer: Tokenizer, text_start: int) -> None:
        self._offsets = TextOffsets(tokenizer, text_start)
        self._waiting: deque[PlacedToken] = deque()

    def advance(
        self, tokens: Iterable[ScoredToken], text_length: int, *, finished: bool
    ) -> tuple[PlacedToken, ...]:
        """What can be reported after `tokens`, with `text_length` characters sent by then."""
        self._waiting.extend(
            PlacedToken(self._offsets.advance(token.token_id), token) for token in tokens
        )
        ready: list[PlacedToken] = []
        while self._waiting and (finished or self._waiting[0].offset < text_length):
            offset, token = self._waiting.popleft()
            ready.append(PlacedToken(min(offset, text_length), token))
        return tuple(ready)


def places_in_prompt(
    tokens: Iterable[ScoredToken], tokenizer: Tokenizer
) -> tuple[PlacedToken, ...]:
    """A prompt's own tokens (`echo`); offsets begin at 0."""
    offsets = TextOffsets(tokenizer)
    return tuple(PlacedToken(offsets.advance(token.token_id), token) for token in tokens)
