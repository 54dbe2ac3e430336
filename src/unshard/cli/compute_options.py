"""What `generate`, `score` and `serve` compute in, and where."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from unshard.library.precisions import PRECISIONS

dtype_option: Callable[..., Any] = click.option(
    "--dtype",
    type=click.Choice(list(PRECISIONS)),
    default="fp32",
    show_default=True,
    help="What to compute in; int8 and int4 keep the matrices in 8 and 4 bits.",
)
device_option: Callable[..., Any] = click.option(
    "--device", default="cpu", show_default=True, help="cpu, cuda or cuda:N."
)
