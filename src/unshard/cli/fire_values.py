"""Values as the original scripts' command lines took them: Python's `True`, `False`, `None`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

TRUE = frozenset({"true", "1", "yes"})
FALSE = frozenset({"false", "0", "no"})
F = TypeVar("F", bound=Callable[..., Any])


class Truth(click.ParamType[bool]):
    """`True`, `False`, `true`, `false`, `1` or `0`."""

    name = "True|False"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> bool:
        """The truth value; click's usage error (exit 2) when it is none."""
        if isinstance(value, bool):
            return value
        text = str(value).lower()
        if text not in TRUE | FALSE:
            self.fail(f"{value!r} is neither True nor False", param, ctx)
        return text in TRUE


def truth_option(*names: str, default: bool, help_text: str) -> Callable[[F], F]:
    """An option that takes a truth value, and is true when it is there without one."""
    return click.option(
        *names,
        type=Truth(),
        default=default,
        show_default=True,
        is_flag=False,
        flag_value="True",
        help=help_text,
    )


def dashes(name: str) -> str:
    """An option's name with dashes, for people who type it with underscores as Python does."""
    return name.replace("_", "-")
