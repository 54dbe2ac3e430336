"""OpenAI's legacy `logprobs` object: tokens as strings, scores, and where each token begins."""

from __future__ import annotations

import codecs
from collections import deque
from collections.abc import Iterable

from unshard.engine.request import ScoredToken
from unshard.server.protocol import Logprobs
from unshard.server.served import Tokenizer


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


class TextOffsets:
    """Where tokens begin in the text they make up, in characters.

    A token that goes on with a character begins where that character does, so the text
    between consecutive offsets always adds up to the whole text.
    """

    def __init__(self, tokenizer: Tokenizer, start: int) -> None:
        self._tokenizer = tokenizer
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._length = start

    def advance(self, token_id: int) -> int:
        """The offset of the next token, `token_id`."""
        offset = self._length
        self._length += len(self._decoder.decode(self._tokenizer.token_bytes(token_id)))
        return offset


class LogprobsTrack:
    """The logprobs of one continuation as it grows.

    A token is reported once the text it begins in has been sent, and the rest at the end,
    so no offset lies beyond the text: a stop string may cut text off whose tokens are known.
    """

    def __init__(self, tokenizer: Tokenizer, text_start: int) -> None:
        self._tokenizer = tokenizer
        self._offsets = TextOffsets(tokenizer, text_start)
        self._waiting: deque[tuple[int, ScoredToken]] = deque()

    def advance(
        self, tokens: Iterable[ScoredToken], text_length: int, *, finished: bool
    ) -> Logprobs:
        """What can be reported after `tokens`, with `text_length` characters sent by then."""
        self._waiting.extend((self._offsets.advance(token.token_id), token) for token in tokens)
        ready: list[tuple[int, ScoredToken]] = []
        while self._waiting and (finished or self._waiting[0][0] < text_length):
            offset, token = self._waiting.popleft()
            ready.append((min(offset, text_length), token))
        return _logprobs(ready, self._tokenizer)


def prompt_logprobs(tokens: Iterable[ScoredToken], tokenizer: Tokenizer) -> Logprobs:
    """The logprobs of a prompt's own tokens (`echo`); offsets begin at 0."""
    offsets = TextOffsets(tokenizer, 0)
    return _logprobs([(offsets.advance(token.token_id), token) for token in tokens], tokenizer)


def join(parts: Iterable[Logprobs]) -> Logprobs:
    """Consecutive parts as one."""
    whole = Logprobs(tokens=[], token_logprobs=[], top_logprobs=[], text_offset=[])
    for part in parts:
        whole.tokens.extend(part.tokens)
        whole.token_logprobs.extend(part.token_logprobs)
        whole.top_logprobs.extend(part.top_logprobs)
        whole.text_offset.extend(part.text_offset)
    return whole


def _logprobs(placed: list[tuple[int, ScoredToken]], tokenizer: Tokenizer) -> Logprobs:
    return Logprobs(
        tokens=[token_string(token.token_id, tokenizer) for _, token in placed],
        token_logprobs=[token.logprob for _, token in placed],
        top_logprobs=[_top(token, tokenizer) for _, token in placed],
        text_offset=[offset for offset, _ in placed],
    )


def _top(token: ScoredToken, tokenizer: Tokenizer) -> dict[str, float] | None:
    """Best first. The chosen token is always there, last if it is not among the best."""
    if token.logprob is None:
        return None
    top = {token_string(token_id, tokenizer): score for token_id, score in token.alternatives}
    top.setdefault(token_string(token.token_id, tokenizer), token.logprob)
    return top
