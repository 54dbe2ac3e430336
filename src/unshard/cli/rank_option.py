"""The option `--tp`."""

from __future__ import annotations

import click

tp_option = click.option(
    "--tp",
    type=click.IntRange(1),
    help="Tensor-parallel ranks: so many processes, each with its slice of the weights.  "
    "[default: 1, or as many as torchrun started]",
)
