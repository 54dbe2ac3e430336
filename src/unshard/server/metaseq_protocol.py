"""The original's API as data.

Strings that spell numbers are numbers, as they were there, and null counts as left out.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, ValidationInfo, WithJsonSchema, field_validator, model_validator
from pydantic_core import PydanticCustomError

from unshard.server.fields import MAX_CHOICES, MAX_SEED, Incoming, Only, Outgoing, Prompt, Stop
from unshard.server.protocol import FinishReason

MAX_ALTERNATIVES = 100
MAX_TEMPERATURE = 100
MAX_ALPHA = 100

_SPELLED = WithJsonSchema({"type": ["number", "string", "boolean", "null"]})

Integer = Annotated[int, Field(strict=False), _SPELLED]
Count = Annotated[Integer, Field(ge=1, le=MAX_CHOICES)]
Number = Annotated[float, Field(strict=False), _SPELLED]
Alpha = Annotated[Number, Field(ge=-MAX_ALPHA, le=MAX_ALPHA)]


class MetaseqRequest(Incoming):
    """The body of `POST /completions`. Fields that others have and it ignored may be sent with
    the value that has no effect."""

    model: str | None = None
    prompt: Prompt
    max_tokens: Integer | None = None
    min_tokens: Annotated[Integer, Field(ge=0)] = 0
    temperature: Annotated[Number, Field(ge=0, le=MAX_TEMPERATURE)] = 1.0
    top_p: Number = 1.0
    n: Count = 1
    best_of: Count | None = None
    logprobs: Annotated[Integer, Field(le=MAX_ALTERNATIVES)] | None = None
    stop: Stop = None
    echo: bool | None = None
    seed: Annotated[Integer, Field(ge=-MAX_SEED - 1, le=MAX_SEED)] | None = None
    lambda_decay: Annotated[Number, Field(le=1)] = -1.0
    omega_bound: Annotated[Number, Field(ge=0, le=1)] = 0.3
    alpha_presence: Alpha = 0.0
    alpha_frequency: Alpha = 0.0
    alpha_presence_src: Alpha = 0.0
    alpha_frequency_src: Alpha = 0.0
    alpha_src_penalty_end_idx: Integer = -1

    user: str | None = None
    stream: Annotated[Any, Only(False)] = None
    suffix: Annotated[Any, Only("")] = None
    presence_penalty: Annotated[Any, Only(0)] = None
    frequency_penalty: Annotated[Any, Only(0)] = None
    logit_bias: Annotated[Any, Only({})] = None

    @model_validator(mode="before")
    @classmethod
    def _without_nulls(cls, body: Any) -> Any:
        if not isinstance(body, dict):
            return body
        return {name: value for name, value in body.items() if value is not None}

    @field_validator("best_of")
    @classmethod
    def _not_less_than_n(cls, value: int | None, info: ValidationInfo) -> int | None:
        if value is not None and value < info.data.get("n", 1):
            raise PydanticCustomError("too_few", "must not be less than n")
        return value


class MetaseqLogprobs(Outgoing):
    """One entry per token. With `echo` the first is the `</s>` in front of the prompt, whose
    logprob is null."""

    finish_reason: FinishReason
    text_offset: list[int]
    token_logprobs: list[float | None]
    tokens: list[str]
    top_logprobs: list[dict[str, float] | None] | None


class MetaseqChoice(Outgoing):
    logprobs: MetaseqLogprobs
    text: str


class MetaseqCompletion(Outgoing):
    """The answer: for each prompt in order, its `n` choices, the best first."""

    choices: list[MetaseqChoice]
    created: int
    id: str
    model: str
    object: str = "text_completion"
