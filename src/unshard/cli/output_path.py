"""Names of what a command writes: no link may become one, since everybody reads them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from unshard.errors import UsageError
from unshard.redaction import without_secrets


def output_path(text: str | Path) -> Path:
    """
    Raises:
        UsageError: it is a link, or what a shell left of one.
    """
    shown = without_secrets(str(text))
    if shown != str(text) or shown.lower().startswith(("http:/", "https:/")):
        raise UsageError(
            f"{shown}: is a link, not a place to write to",
            hint="name a file or folder of this machine; everybody can read its name",
        )
    return Path(text)


class OutputPath(click.Path):
    """A file or folder that the command writes; see `output_path`."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        """A `Path`; raises as `output_path`, and click's usage error as `click.Path`."""
        path = output_path(value)
        super().convert(path, param, ctx)
        return path
