"""A prompt in a line of JSON, and how it is to be continued."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from unshard.engine.jobs import Job
from unshard.engine.request import GenerationOutput, GenerationRequest, SamplingParams
from unshard.engine.tokenizer import Tokenizer
from unshard.errors import FormatError
from unshard.library.input_lines import InputLine

_NUMBERS = (
    "temperature",
    "top_p",
    "min_p",
    "presence_penalty",
    "frequency_penalty",
    "repetition_penalty",
)
_INTEGERS = ("max_tokens", "min_tokens", "top_k", "seed")
_FIELDS = {"id", "prompt", "stop", *_NUMBERS, *_INTEGERS}


class PromptJob(Job):
    """One prompt, continued as its line says and otherwise as by default."""

    def __init__(self, line: InputLine, tokenizer: Tokenizer, defaults: SamplingParams) -> None:
        """See `line_params`: the line's text is the same in every run."""
        super().__init__(line)
        self._params = defaults
        self._ids: tuple[int, ...] = ()
        self._texts: list[str] = []
        self.num_tokens = 0
        self._finish_reason: str | None = None
        if self.error is None:
            try:
                self._params = line_params(line, defaults)
                self._ids = tokenizer.prompt_ids(line.text("prompt"))
            except FormatError as error:
                self.error = error

    @property
    def share_done(self) -> float:
        return float(self._finish_reason is not None)

    def requests(self) -> Iterator[GenerationRequest]:
        yield GenerationRequest(self.line.where, self._ids, self._params)

    def take(self, output: GenerationOutput) -> None:
        super().take(output)
        self._texts.append(output.text)
        self.num_tokens += len(output.tokens)
        self._finish_reason = output.finish_reason

    def answer(self) -> dict[str, object]:
        if self.error is not None:
            return super().answer()
        return {
            "text": "".join(self._texts),
            "finish_reason": self._finish_reason,
            "prompt_tokens": len(self._ids),
            "completion_tokens": self.num_tokens,
            "seed": self._params.seed,
        }


def line_params(line: InputLine, defaults: SamplingParams) -> SamplingParams:
    """`defaults` with what `line` says; a field that is null counts as left out. Without a seed
    of its own a line's is that of `defaults` and its place in the file, from 0, added: equal
    prompts are continued differently.

    Raises:
        FormatError: a field is unknown, or not of its kind. Its range is the engine's to check.
    """
    said = {name: value for name, value in line.fields.items() if value is not None}
    if unknown := said.keys() - _FIELDS:
        raise FormatError(
            line.where,
            f"there is no field {min(unknown)!r}",
            hint=f"the fields are {', '.join(sorted(_FIELDS))}",
        )
    changes: dict[str, Any] = {
        # None would be another in each run, and a run that goes on would not be as one.
        "seed": (defaults.seed or 0) + line.number - 1,
        **{name: _number(line, said[name], name) for name in _NUMBERS if name in said},
        **{name: _integer(line, said[name], name) for name in _INTEGERS if name in said},
    }
    if "stop" in said:
        changes["stop"] = _stop(line, said["stop"])
    return replace(defaults, **changes)


def _number(line: InputLine, value: object, name: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise FormatError(line.where, f"the field {name} is not a number")
    try:
        return float(value)
    except OverflowError:
        return math.inf


def _integer(line: InputLine, value: object, name: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise FormatError(line.where, f"the field {name} is not an integer")
    return value


def _stop(line: InputLine, value: object) -> tuple[str, ...]:
    stops = [value] if isinstance(value, str) else value
    if not isinstance(stops, list) or not all(isinstance(each, str) for each in stops):
        raise FormatError(line.where, "the field stop is neither a string nor a list of strings")
    return tuple(stops)
