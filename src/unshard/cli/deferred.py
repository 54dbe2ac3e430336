"""Calling a function whose module is imported only then.

`serve`, `generate` and `demo` need torch, `reshard --executor ray` needs ray, which take seconds
to import and belong to extras: `--help`, and complaints about arguments, must not wait for them.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

from unshard.errors import UsageError

EXTRAS = {"openai": "demo", "ray": "ray"}
"""Which extra brings a package; all others come with `serve`."""


def deferred(module: str, function: str) -> Callable[..., Any]:
    """`function` of `module`, imported at the first call.

    The call raises:
        UsageError: a package of an extra is not installed.
    """

    def call(*arguments: object, **options: object) -> Any:
        try:
            found = importlib.import_module(module)
        except ModuleNotFoundError as error:
            package = (error.name or "").split(".")[0]
            if package == "unshard":
                raise
            extra = EXTRAS.get(package, "serve")
            raise UsageError(
                f"this needs the package {package}, which is not installed",
                hint=f"pip install 'unshard[{extra}]', or '.[{extra}]' in a clone",
            ) from error
        return getattr(found, function)(*arguments, **options)

    return call
