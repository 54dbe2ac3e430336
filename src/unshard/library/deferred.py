"""Calling a function whose module is imported only then.

torch, ray and transformers take seconds to import and belong to extras: `--help`, complaints about
arguments, and all that needs none of them must not wait for them.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

from unshard.errors import UsageError
from unshard.interrupts import interrupts_told


def deferred(
    module: str, function: str, *, extra: str = "serve", hint: str | None = None
) -> Callable[..., Any]:
    """`function` of `module`, imported at the first call; a Ctrl-C meanwhile is raised after it.

    The call raises:
        UsageError: a package of `extra` is not installed; `hint` says what else can be done.
    """

    def call(*arguments: object, **options: object) -> Any:
        try:
            # torch imports numpy from C, where a Ctrl-C is lost, or leaves half of numpy.
            with interrupts_told(lambda _: None):
                found = importlib.import_module(module)
        except ModuleNotFoundError as error:
            package = (error.name or "").split(".")[0]
            if package == "unshard":
                raise
            raise UsageError(
                f"this needs the package {package}, which is not installed",
                hint=hint or f"pip install 'unshard[{extra}]', or '.[{extra}]' in a clone",
            ) from error
        return getattr(found, function)(*arguments, **options)

    return call
