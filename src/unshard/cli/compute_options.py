"""What `generate`, `score` and `serve` compute in, and where."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

dtype_option: Callable[..., Any] = click.option(
    "--dtype",
    type=click.Choice(["fp32", "bf16", "fp16", "int8"]),
    default="fp32",
    show_default=True,
    help="What to compute in; int8 keeps the layers' matrices in 8 bits.",
)
device_option: Callable[..., Any] = click.option(
    "--device", default="cpu", show_default=True, help="cpu, cuda or cuda:N."
)
