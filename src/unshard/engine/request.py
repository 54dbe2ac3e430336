"""What goes into the engine and what comes out: plain frozen data."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from unshard.errors import UnshardError

FinishReason = Literal["stop", "length"]


@dataclass(frozen=True, slots=True)
class FactualNucleus:
    """A nucleus that narrows within a sentence, and is wide again in the next.

    Source: arXiv:2206.04624; what metaseq's generator makes of it.
    """

    lambda_decay: float
    """`top_p` is multiplied by it with each token of a sentence but its first two."""
    omega_bound: float = 0.3
    """`top_p` never becomes less."""

    def top_p(self, top_p: float, num_generated: int, since_end: int) -> float:
        """That of the next token, with so many tokens generated in all and after the last
        ".", "?" or "!"."""
        if num_generated == 0:
            return top_p
        return max(self.omega_bound, top_p * self.lambda_decay ** max(0, since_end - 1))


@dataclass(frozen=True, slots=True)
class SourcePenalties:
    """What metaseq's generator takes from the log probabilities of the prompt's tokens: after
    temperature, unlike OpenAI's penalties. Neither has an effect unless one is above 0."""

    presence: float = 0.0
    """`alpha_presence_src`: taken once from each token of the prompt, its `</s>` too."""
    frequency: float = 0.0
    """`alpha_frequency_src`: taken for each time that it is there."""
    end: int = -1
    """`alpha_src_penalty_end_idx`: only so many first tokens count; from 0 down, all."""

    @property
    def applies(self) -> bool:
        return self.presence > 0 or self.frequency > 0

    def part_of(self, prompt_ids: tuple[int, ...]) -> tuple[int, ...]:
        """The tokens that count."""
        return prompt_ids[: self.end] if self.end > 0 else prompt_ids


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
    `repetition_penalty` divides the logits above 0 of all tokens before, the prompt's too, and
    multiplies those below. None of the first `min_tokens` tokens ends the text.
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
    repetition_penalty: float = 1.0
    min_tokens: int = 0
    factual_nucleus: FactualNucleus | None = None
    source_penalties: SourcePenalties | None = None

    @property
    def penalizes(self) -> bool:
        """Whether how often a token was generated before matters."""
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
