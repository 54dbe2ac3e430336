"""OpenAI's two `logprobs` objects: four lists in a completion, one list in a chat."""

from __future__ import annotations

from collections.abc import Iterable

from unshard.engine.request import ScoredToken
from unshard.server.chat_protocol import ChatLogprobs, TokenLogprob, TopLogprob
from unshard.server.protocol import Logprobs
from unshard.server.served import Tokenizer
from unshard.server.token_places import PlacedToken, named_alternatives, token_string


def completion_logprobs(
    tokens: Iterable[PlacedToken] | None, tokenizer: Tokenizer
) -> Logprobs | None:
    """`tokens` as a completion reports them; None for None."""
    if tokens is None:
        return None
    placed = list(tokens)
    return Logprobs(
        tokens=[token_string(token.token_id, tokenizer) for _, token in placed],
        token_logprobs=[token.logprob for _, token in placed],
        top_logprobs=[_top(token, tokenizer) for _, token in placed],
        text_offset=[offset for offset, _ in placed],
    )


def chat_logprobs(
    tokens: Iterable[PlacedToken] | None, tokenizer: Tokenizer
) -> ChatLogprobs | None:
    """`tokens` as a chat reports them; None for None."""
    if tokens is None:
        return None
    return ChatLogprobs(
        content=[
            TokenLogprob(
                **_named(token.token_id, token.logprob or 0.0, tokenizer).model_dump(),
                top_logprobs=[
                    _named(token_id, logprob, tokenizer) for token_id, logprob in token.alternatives
                ],
            )
            for _, token in tokens
        ]
    )


def _top(token: ScoredToken, tokenizer: Tokenizer) -> dict[str, float] | None:
    """Best first. The chosen token is always there, last if it is not among the best."""
    if token.logprob is None:
        return None
    top = named_alternatives(token.alternatives, tokenizer)
    top.setdefault(token_string(token.token_id, tokenizer), token.logprob)
    return top


def _named(token_id: int, logprob: float, tokenizer: Tokenizer) -> TopLogprob:
    return TopLogprob(
        token=token_string(token_id, tokenizer),
        logprob=logprob,
        bytes=list(tokenizer.token_bytes(token_id)) or None,
    )
