"""OpenAI's chat API as data: the request with all its rules, and the answers.

What the model behind has no use for (tools, sounds, pictures) may be sent only with the value
that has no effect.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError
from typing_extensions import TypedDict

from unshard.server.fields import (
    MAX_LOGPROBS,
    GenerationFields,
    Incoming,
    Only,
    Outgoing,
    Several,
    Text,
    in_one_error,
)
from unshard.server.protocol import FinishReason, Usage


class TextPart(Incoming):
    """One part of a message: only texts are read."""

    type: Literal["text"]
    text: Text


def _joined(content: str | list[TextPart]) -> str:
    """Parts stand on lines of their own."""
    return content if isinstance(content, str) else "\n".join(part.text for part in content)


Content = Annotated[
    Text | Several[TextPart],
    in_one_error("must be a string or a list of parts of type text"),
    AfterValidator(_joined),
]


class Message(Incoming):
    """One message. Which roles go, and in which order, is the template's to say."""

    role: Literal["system", "developer", "user", "assistant"]
    content: Content
    name: Text | None = None


class ChatRequest(GenerationFields):
    """The body of `POST /v1/chat/completions`."""

    messages: Annotated[Several[Message], Field(min_length=1)]
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=MAX_LOGPROBS)] | None = None

    audio: Annotated[Any, Only(None)] = None
    function_call: Annotated[Any, Only("none")] = None
    functions: Annotated[Any, Only([])] = None
    metadata: Annotated[Any, Only({})] = None
    modalities: Annotated[Any, Only(["text"])] = None
    parallel_tool_calls: Annotated[Any, Only(True)] = None
    prediction: Annotated[Any, Only(None)] = None
    reasoning_effort: Annotated[Any, Only("none")] = None
    response_format: Annotated[Any, Only({"type": "text"})] = None
    service_tier: Annotated[Any, Only("auto")] = None
    store: Annotated[Any, Only(False)] = None
    tool_choice: Annotated[Any, Only("none")] = None
    tools: Annotated[Any, Only([])] = None
    verbosity: Annotated[Any, Only("medium")] = None
    web_search_options: Annotated[Any, Only(None)] = None

    @property
    def asked_tokens(self) -> int | None:
        """`max_tokens` by either of its names."""
        return self.max_completion_tokens or self.max_tokens

    @field_validator("max_completion_tokens")
    @classmethod
    def _one_length(cls, value: int | None, info: ValidationInfo) -> int | None:
        other = info.data.get("max_tokens")
        if value is not None and other is not None and value != other:
            raise PydanticCustomError("two_lengths", "differs from max_tokens; send one of them")
        return value

    @field_validator("top_logprobs")
    @classmethod
    def _needs_logprobs(cls, value: int | None, info: ValidationInfo) -> int | None:
        if value is not None and not info.data.get("logprobs"):
            raise PydanticCustomError(
                "without_logprobs", "is allowed only together with logprobs: true"
            )
        return value


class TopLogprob(Outgoing):
    """`bytes` is null for a token without text."""

    token: str
    logprob: float
    bytes: list[int] | None


class TokenLogprob(TopLogprob):
    top_logprobs: list[TopLogprob]


class ChatLogprobs(Outgoing):
    """One entry per generated token, with the best of its place, best first."""

    content: list[TokenLogprob]


class AnswerMessage(Outgoing):
    role: Literal["assistant"] = "assistant"
    content: str


class ChatChoice(Outgoing):
    index: int
    message: AnswerMessage
    logprobs: ChatLogprobs | None
    finish_reason: FinishReason


class ChatCompletion(Outgoing):
    """The whole answer."""

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: list[ChatChoice]
    usage: Usage


class Delta(TypedDict, total=False):
    role: Literal["assistant"]
    content: str


class ChunkChoice(Outgoing):
    """What is new in one choice: first its role, last why it ended."""

    index: int
    delta: Delta
    logprobs: ChatLogprobs | None = None
    finish_reason: FinishReason | None = None


class ChatChunk(Outgoing):
    """One event of a stream."""

    id: str
    object: Literal["chat.completion.chunk"] = "chat.completion.chunk"
    created: int
    model: str
    choices: list[ChunkChoice]
    usage: Usage | None = None
