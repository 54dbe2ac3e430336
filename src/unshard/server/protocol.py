"""OpenAI's completions API as data: the request with all its rules, and the answers.

Fields and ranges are those of OpenAI's legacy `POST /v1/completions`, with the sampling fields
that other servers added to it: `top_k`, `min_p`, `repetition_penalty`, `min_tokens`.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError

from unshard.server.fields import (
    MAX_CHOICES,
    MAX_LOGPROBS,
    GenerationFields,
    Only,
    Outgoing,
    Prompt,
)

FinishReason = Literal["stop", "length"]


class CompletionRequest(GenerationFields):
    """The body of `POST /v1/completions`."""

    prompt: Prompt
    echo: bool | None = None
    max_tokens: Annotated[int, Field(ge=0)] | None = None
    best_of: Annotated[int, Field(ge=1, le=MAX_CHOICES)] | None = None
    logprobs: Annotated[int, Field(ge=0, le=MAX_LOGPROBS)] | None = None
    suffix: Annotated[str | None, Only("")] = None

    @property
    def is_ranked(self) -> bool:
        """Whether more is generated than answered."""
        return (self.best_of or 0) > (self.n or 1)

    @field_validator("max_tokens")
    @classmethod
    def _zero_needs_echo(cls, value: int | None, info: ValidationInfo) -> int | None:
        if value == 0 and not info.data.get("echo"):
            raise PydanticCustomError("nothing_asked", "0 is allowed only together with echo")
        return value

    @field_validator("best_of")
    @classmethod
    def _best_of_what(cls, value: int | None, info: ValidationInfo) -> int | None:
        choices = info.data.get("n") or 1
        if value is not None and value < choices:
            raise PydanticCustomError("too_few", "must not be less than n")
        if value is not None and value > choices and info.data.get("stream"):
            raise PydanticCustomError(
                "streamed", "must equal n when stream is true: the best is known at the end"
            )
        return value


class Logprobs(Outgoing):
    """Four lists with one entry per token. `text_offset` counts characters of the choice's
    text; `top_logprobs` maps the best tokens and the chosen one to their logprobs."""

    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None]
    text_offset: list[int]


class Choice(Outgoing):
    """One continuation, or in a stream what is new in it."""

    index: int
    text: str
    logprobs: Logprobs | None
    finish_reason: FinishReason | None


class Usage(Outgoing):
    """Counted in tokens; the `</s>` in front of a prompt is one of its tokens."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class Completion(Outgoing):
    """The whole answer, or one event of a stream."""

    id: str
    object: Literal["text_completion"] = "text_completion"
    created: int
    model: str
    choices: list[Choice]
    usage: Usage | None = None


class Model(Outgoing):
    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "unshard"
    max_model_len: int
    """The context in tokens, by the name that vLLM gave it."""


class ModelList(Outgoing):
    object: Literal["list"] = "list"
    data: list[Model]


STREAMED: dict[int | str, dict[str, Any]] = {
    200: {"content": {"text/event-stream": {}}, "description": "The answer, or its events"}
}
"""Of a route that may stream; what fails is the same on every route."""
