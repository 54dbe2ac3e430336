"""OpenAI's completions API as data: the request with all its rules, and the answers.

Fields and ranges are those of OpenAI's legacy `POST /v1/completions`, with the sampling fields
that other servers added to it: `top_k`, `min_p`, `repetition_penalty`, `min_tokens`. A field is
honoured or refused: an unknown one is an error, and one that is known but not supported yet may
only be sent with the value that has no effect.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    ValidatorFunctionWrapHandler,
    WrapValidator,
    field_validator,
)
from pydantic_core import PydanticCustomError

MAX_CHOICES = 16
MAX_STOP_STRINGS = 16
MAX_LOGPROBS = 20
MAX_SEED = 2**63 - 1
MAX_ID_DIGITS = 9
MAX_BIAS = 100
MIN_REPETITION = 0.01

PromptForm = str | list[int] | list[str] | list[list[int]]


def _in_one_error(problem: str) -> WrapValidator:
    """A union's failure as one error instead of one per member."""

    def check(value: Any, validate: ValidatorFunctionWrapHandler) -> Any:
        try:
            return validate(value)
        except ValidationError as error:
            raise PydanticCustomError("wrong_form", "{problem}", {"problem": problem}) from error

    return WrapValidator(check)


def _valid_text(text: str) -> str:
    """JSON can spell half a surrogate pair, which is no text and has no bytes."""
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise PydanticCustomError("not_text", "holds half a surrogate pair, which is not text")
    return text


def _valid_prompt(prompt: PromptForm) -> PromptForm:
    if prompt == [] or (isinstance(prompt, list) and [] in prompt):
        raise PydanticCustomError("empty", 'must not be an empty list (an empty text is "")')
    for text in [prompt] if isinstance(prompt, str) else prompt:
        if isinstance(text, str):
            _valid_text(text)
    return prompt


def _valid_stop(stop: str | list[str] | None) -> str | list[str] | None:
    strings = [stop] if isinstance(stop, str) else stop or []
    if len(strings) > MAX_STOP_STRINGS:
        raise PydanticCustomError("too_many", f"at most {MAX_STOP_STRINGS} stop strings")
    if "" in strings:
        raise PydanticCustomError("empty", "a stop string must not be empty")
    for string in strings:
        _valid_text(string)
    return stop


def _valid_bias(biases: dict[str, float] | None) -> dict[str, float] | None:
    """JSON's keys are strings: these spell token ids, and the engine says whether they exist."""
    for key, bias in (biases or {}).items():
        if not (key.isascii() and key.isdecimal() and len(key) <= MAX_ID_DIGITS):
            raise PydanticCustomError("not_an_id", "its keys must be token ids")
        if abs(bias) > MAX_BIAS:
            raise PydanticCustomError("too_large", f"its values must be within {MAX_BIAS} of 0")
    return biases


def _only(neutral: object) -> AfterValidator:
    """A field of OpenAI's that may be sent, but only with the value that has no effect."""

    def check(value: object) -> object:
        if value is not None and value != neutral:
            raise PydanticCustomError("not_supported", "is not supported yet; leave it out")
        return value

    return AfterValidator(check)


Prompt = Annotated[
    PromptForm,
    _in_one_error("must be a string, a list of token ids, or a list of either"),
    AfterValidator(_valid_prompt),
]
Stop = Annotated[
    str | list[str] | None,
    _in_one_error("must be a string or a list of strings"),
    AfterValidator(_valid_stop),
]
Penalty = Annotated[float, Field(ge=-2, le=2)] | None


class _Incoming(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, frozen=True)


class StreamOptions(_Incoming):
    include_usage: bool | None = None


class CompletionRequest(_Incoming):
    """The body of `POST /v1/completions`. A field that is null counts as left out.

    A rule about two fields is checked at the later of them, so that the error names one.
    """

    model: str | None = None
    prompt: Prompt
    echo: bool | None = None
    max_tokens: Annotated[int, Field(ge=0)] | None = None
    min_tokens: Annotated[int, Field(ge=0)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=-1)] | None = None
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    n: Annotated[int, Field(ge=1, le=MAX_CHOICES)] | None = None
    stream: bool | None = None
    best_of: Annotated[int, Field(ge=1, le=MAX_CHOICES)] | None = None
    stream_options: StreamOptions | None = None
    logprobs: Annotated[int, Field(ge=0, le=MAX_LOGPROBS)] | None = None
    stop: Stop = None
    seed: Annotated[int, Field(ge=-MAX_SEED - 1, le=MAX_SEED)] | None = None
    user: str | None = None
    suffix: Annotated[str | None, _only("")] = None
    presence_penalty: Penalty = None
    frequency_penalty: Penalty = None
    repetition_penalty: Annotated[float, Field(ge=MIN_REPETITION, le=2)] | None = None
    logit_bias: Annotated[dict[str, float] | None, AfterValidator(_valid_bias)] = None

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

    @field_validator("stream_options")
    @classmethod
    def _options_need_stream(
        cls, value: StreamOptions | None, info: ValidationInfo
    ) -> StreamOptions | None:
        if value is not None and not info.data.get("stream"):
            raise PydanticCustomError("without_stream", "is allowed only when stream is true")
        return value


class _Outgoing(BaseModel):
    model_config = ConfigDict(frozen=True)


class Logprobs(_Outgoing):
    """Four lists with one entry per token. `text_offset` counts characters of the choice's
    text; `top_logprobs` maps the best tokens and the chosen one to their logprobs."""

    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None]
    text_offset: list[int]


class Choice(_Outgoing):
    """One continuation, or in a stream what is new in it."""

    index: int
    text: str
    logprobs: Logprobs | None
    finish_reason: Literal["stop", "length"] | None


class Usage(_Outgoing):
    """Counted in tokens; the `</s>` in front of a prompt is one of its tokens."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class Completion(_Outgoing):
    """The whole answer, or one event of a stream."""

    id: str
    object: Literal["text_completion"] = "text_completion"
    created: int
    model: str
    choices: list[Choice]
    usage: Usage | None = None


class Model(_Outgoing):
    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "unshard"
    max_model_len: int
    """The context in tokens, by the name that vLLM gave it."""


class ModelList(_Outgoing):
    object: Literal["list"] = "list"
    data: list[Model]
