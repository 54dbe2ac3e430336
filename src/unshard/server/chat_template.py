"""What a chat looks like to a model that only continues texts: a template in Jinja, as
transformers has them."""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, NoReturn

from jinja2 import TemplateError, TemplateSyntaxError
from jinja2.ext import Extension
from jinja2.nodes import Node
from jinja2.parser import Parser
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment

from unshard.errors import RequestError, UsageError

END = "</s>"
"""How a template writes the token that begins and ends texts."""
_OWN_FAILURES = (
    *(TemplateError, ArithmeticError, AttributeError, LookupError),
    *(RecursionError, TypeError, ValueError),
)
"""Whatever a template's own arithmetic and macros may fail with."""
MAX_CHARACTERS = 1 << 24
"""What a template may write, and what its `*` may make of a text or a list."""
MAX_BITS = 4096
"""The longest number that a template's `*` and `**` may make."""


class ChatTemplate:
    """A template, run in Jinja's sandbox: it sees the messages and nothing else.

    `</s>` in the template, or its `bos_token` and `eos_token`, is the token. In a message it is
    four characters like any others, so no message can end a turn.
    """

    def __init__(self, source: str) -> None:
        """
        Raises:
            UsageError: `source` is no template.
        """
        # Nobody who writes messages can know it.
        self._mark = secrets.token_hex(16)
        try:
            self._template = _environment().from_string(source.replace(END, self._mark))
        except TemplateSyntaxError as error:
            raise UsageError(
                f"the chat template is wrong in line {error.lineno}: {error.message}",
                hint="it has to be a Jinja template, as a tokenizer_config.json has it",
            ) from error

    def render(
        self, messages: Sequence[Mapping[str, str]], *, add_generation_prompt: bool
    ) -> list[str]:
        """The text of `messages`, in parts: between each two of them is a `</s>`.

        Raises:
            RequestError: the template does not take these messages.
        """
        try:
            pieces = self._template.generate(
                messages=messages,
                add_generation_prompt=add_generation_prompt,
                bos_token=self._mark,
                eos_token=self._mark,
            )
            text = _bounded(pieces)
        except _OWN_FAILURES as error:
            problem = " ".join(str(error).split()).replace(self._mark, END)
            raise RequestError(
                f"the chat template does not take these messages: {problem}", param="messages"
            ) from error
        return text.split(self._mark)


class _GenerationTag(Extension):
    """`{% generation %}` marks what to train on, and changes nothing here."""

    tags = {"generation"}  # noqa: RUF012 # Jinja's own declaration

    def parse(self, parser: Parser) -> list[Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class _Bounded(ImmutableSandboxedEnvironment):
    """Jinja's sandbox, in which one operator cannot fill the memory either."""

    intercepted_binops = frozenset({"*", "**"})

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        if operator == "*":
            _check_product(left, right)
        elif isinstance(left, int) and isinstance(right, int):
            _check(left.bit_length() * right, MAX_BITS)
        return super().call_binop(context, operator, left, right)


def _check_product(left: object, right: object) -> None:
    if isinstance(left, int) and isinstance(right, int):
        _check(left.bit_length() + right.bit_length(), MAX_BITS)
    for many, times in ((left, right), (right, left)):
        if isinstance(many, str | list | tuple) and isinstance(times, int):
            _check(len(many) * times, MAX_CHARACTERS)


def _check(size: int, most: int) -> None:
    if size > most:
        raise OverflowError("its arithmetic makes too much")


def _bounded(pieces: Iterable[str]) -> str:
    kept, size = [], 0
    for piece in pieces:
        size += len(piece)
        if size > MAX_CHARACTERS:
            raise OverflowError(f"it writes more than {MAX_CHARACTERS} characters")
        kept.append(piece)
    return "".join(kept)


def _environment() -> ImmutableSandboxedEnvironment:
    environment = _Bounded(
        trim_blocks=True,
        lstrip_blocks=True,
        extensions=["jinja2.ext.loopcontrols", _GenerationTag],
    )
    environment.filters["tojson"] = _to_json
    environment.globals |= {"raise_exception": _raise, "strftime_now": _now}
    return environment


def _to_json(value: object, indent: int | None = None) -> str:
    # Jinja's own escapes what HTML would read.
    return json.dumps(value, ensure_ascii=False, indent=indent)


def _raise(message: str) -> NoReturn:
    raise TemplateError(message)


def _now(form: str) -> str:
    return datetime.now().strftime(form)
