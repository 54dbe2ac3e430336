"""What goes into the engine and what comes out: plain frozen data."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from unshard.errors import UnshardError

FinishReason = Literal["stop", "length"]


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How one request wants its tokens chosen.

    `temperature` 0 is greedy. `seed` with the request's `choice` and the token's position
    determines each random draw, so a text does not depend on what else is in the batch.
    `logprobs` is how many alternatives to report per token; None reports no logprobs.
    `score_prompt` also reports the prompt's own tokens (the API's `echo` with `logprobs`), from
    place `score_from` on.
    `top_k` 0 keeps all tokens; `min_p` is a share of the best token's probability.
    `presence_penalty` is taken once from the logit of each token generated before,
    `frequency_penalty` each time it was; `logit_bias` pairs token ids and what is added.
    """

    max_tokens: int = 16
    temperature: float = 1.0
    top_p: float = 1.0
    stop: tuple[str, ...] = ()
    seed: int | None = None
    logprobs: int | None = None
    score_prompt: bool = False
    top_k: int = 0
    min_p: float = 0.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: tuple[tuple[int, float], ...] = ()
    score_from: int = 0

    @property
    def penalizes(self) -> bool:
        """Whether the tokens generated before matter."""
        return self.presence_penalty != 0 or self.frequency_penalty != 0


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """One continuation to generate.

    `prompt_ids` starts with `</s>` (id 2). `choice` numbers the continuations of one prompt
    (`n` > 1): same seed, different text.
    """

    request_id: str
    prompt_ids: tuple[int, ...]
    params: SamplingParams = field(default_factory=SamplingParams)
    choice: int = 0


@dataclass(frozen=True, slots=True)
class ScoredToken:
    """A token with its score.

    `logprob` is the natural log of the fp32 softmax over the whole vocabulary before any
    truncation; None for the very first token of a prompt, which nothing predicts.
    `alternatives` are the best tokens of that position as (token id, logprob), best first.
    """

    token_id: int
    logprob: float | None
    alternatives: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True, slots=True)
class GenerationOutput:
    """One advance of one request: what is new since its last output.

    `text` never ends in half a character and never holds any part of a stop string.
    `tokens` are the new tokens, also those whose text is still held back.
    `prompt_tokens` comes once, with the first output, when `score_prompt` was asked.
    The last output of a request has `finish_reason` or `error` set.
    """

    request_id: str
    text: str = ""
    tokens: tuple[ScoredToken, ...] = ()
    prompt_tokens: tuple[ScoredToken, ...] | None = None
    finish_reason: FinishReason | None = None
    error: UnshardError | None = None

    @property
    def finished(self) -> bool:
        return self.finish_reason is not None or self.error is not None
