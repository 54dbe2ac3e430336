"""The kinds of fields that requests have, with their rules: each a type of pydantic's.

A field is honoured or refused: an unknown one is an error, and one that is known but not
supported may only be sent with a value that has no effect.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    ValidationError,
    ValidationInfo,
    ValidatorFunctionWrapHandler,
    WithJsonSchema,
    WrapValidator,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError, core_schema

from unshard.engine.request import SamplingParams

T = TypeVar("T")
_DEFAULTS = SamplingParams()
"""OpenAI's defaults and the engine's are the same."""

MAX_CHOICES = 16
MAX_STOP_STRINGS = 16
MAX_LOGPROBS = 20
MAX_SEED = 2**63 - 1
MAX_ID_DIGITS = 9
MAX_BIAS = 100
MIN_REPETITION = 0.01


@dataclass(frozen=True, slots=True)
class FirstError:
    """Of a list or dictionary whose first wrong item is its only error: a body may hold
    millions of them."""

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> core_schema.CoreSchema:
        schema = handler(source)
        if schema["type"] not in {"list", "dict"}:
            raise TypeError(f"{source} is neither a list nor a dictionary")
        return {**schema, "fail_fast": True}


Several = Annotated[list[T], FirstError()]
PromptForm = str | Several[int] | Several[str] | Several[Several[int]]


def in_one_error(problem: str) -> WrapValidator:
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


# By identity: typing keeps one of equal annotations, and Only(False) equals Only(0).
@dataclass(frozen=True, slots=True, eq=False)
class Only:
    """Of a field that may be sent, but only with the value that has no effect, or as null."""

    neutral: object

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> core_schema.CoreSchema:
        return core_schema.no_info_after_validator_function(self._checked, handler(source))

    def __get_pydantic_json_schema__(
        self, _schema: core_schema.CoreSchema, _handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        return {"enum": [None] if self.neutral is None else [None, self.neutral]}

    def _checked(self, value: object) -> object:
        is_alike = isinstance(value, bool) == isinstance(self.neutral, bool)  # False == 0
        if value is not None and not (value == self.neutral and is_alike):
            raise PydanticCustomError("not_supported", "is not supported; leave it out")
        return value


def _some(items: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": items, "minItems": 1}


_TEXT = {"type": "string"}
_IDS = _some({"type": "integer", "minimum": 0})
_STOP = {"type": "string", "minLength": 1}

Text = Annotated[str, AfterValidator(_valid_text)]
Prompt = Annotated[
    PromptForm,
    in_one_error("must be a string, a list of token ids, or a list of either"),
    AfterValidator(_valid_prompt),
    WithJsonSchema({"anyOf": [_TEXT, _IDS, _some(_TEXT), _some(_IDS)]}),
]
Stop = Annotated[
    str | Several[str] | None,
    in_one_error("must be a string or a list of strings"),
    AfterValidator(_valid_stop),
    WithJsonSchema(
        {
            "anyOf": [
                _STOP,
                {"type": "array", "items": _STOP, "maxItems": MAX_STOP_STRINGS},
                {"type": "null"},
            ]
        }
    ),
]
Bias = Annotated[
    Annotated[dict[str, float], FirstError()] | None,
    AfterValidator(_valid_bias),
    WithJsonSchema(
        {
            "anyOf": [
                {
                    "type": "object",
                    "propertyNames": {"pattern": f"^[0-9]{{1,{MAX_ID_DIGITS}}}$"},
                    "additionalProperties": {
                        "type": "number",
                        "minimum": -MAX_BIAS,
                        "maximum": MAX_BIAS,
                    },
                },
                {"type": "null"},
            ]
        }
    ),
]
Penalty = Annotated[float, Field(ge=-2, le=2)] | None


class Incoming(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _one_unknown(cls, body: Any) -> Any:
        """Leaves one unknown field of any number, as each would be an error of its own."""
        if not isinstance(body, dict):
            return body
        dropped = [name for name in body if name not in cls.__pydantic_fields__][1:]
        return {name: body[name] for name in body.keys() - dropped} if dropped else body


class StreamOptions(Incoming):
    include_usage: bool | None = None


class GenerationFields(Incoming):
    """What completions and chat have in common. A field that is null counts as left out.

    A rule about two fields is checked at the later of them, so that the error names one.
    """

    model: str | None = None
    min_tokens: Annotated[int, Field(ge=0)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=-1)] | None = None
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    n: Annotated[int, Field(ge=1, le=MAX_CHOICES)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    stop: Stop = None
    seed: Annotated[int, Field(ge=-MAX_SEED - 1, le=MAX_SEED)] | None = None
    user: str | None = None
    presence_penalty: Penalty = None
    frequency_penalty: Penalty = None
    repetition_penalty: Annotated[float, Field(ge=MIN_REPETITION, le=2)] | None = None
    logit_bias: Bias = None

    @property
    def include_usage(self) -> bool:
        """Whether a stream ends with what it cost."""
        return bool(self.stream_options and self.stream_options.include_usage)

    @field_validator("stream_options")
    @classmethod
    def _options_need_stream(
        cls, value: StreamOptions | None, info: ValidationInfo
    ) -> StreamOptions | None:
        if value is not None and not info.data.get("stream"):
            raise PydanticCustomError("without_stream", "is allowed only when stream is true")
        return value

    def sampling(
        self, *, max_tokens: int, logprobs: int | None, score_prompt: bool = False
    ) -> SamplingParams:
        """What is asked of the sampler; a field that is null has its default."""
        return SamplingParams(
            max_tokens=max_tokens,
            temperature=given(self.temperature, _DEFAULTS.temperature),
            top_p=given(self.top_p, _DEFAULTS.top_p),
            stop=stop_strings(self.stop),
            seed=self.seed,
            logprobs=logprobs,
            score_prompt=score_prompt,
            top_k=max(0, self.top_k or 0),
            min_p=self.min_p or 0.0,
            presence_penalty=self.presence_penalty or 0.0,
            frequency_penalty=self.frequency_penalty or 0.0,
            repetition_penalty=given(self.repetition_penalty, _DEFAULTS.repetition_penalty),
            min_tokens=self.min_tokens or 0,
            logit_bias=tuple((int(key), bias) for key, bias in (self.logit_bias or {}).items()),
        )


def stop_strings(stop: str | list[str] | None) -> tuple[str, ...]:
    """The field `stop` in its one form."""
    return (stop,) if isinstance(stop, str) else tuple(stop or ())


def given(value: T | None, default: T) -> T:
    """`value`, or `default` for a null."""
    return default if value is None else value


class Outgoing(BaseModel):
    model_config = ConfigDict(frozen=True)
