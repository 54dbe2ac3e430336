"""What `generate`, `score` and `serve` compute in, where, and over how many processes."""

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
tp_option: Callable[..., Any] = click.option(
    "--tp",
    type=click.IntRange(1),
    help="Tensor-parallel ranks: so many processes, each with its slice of the weights.  "
    "[default: 1, or as many as torchrun started]",
)


def machine_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds all three, `dtype`, `device` and `tp`."""
    for option in (tp_option, device_option, dtype_option):
        command = option(command)
    return command
