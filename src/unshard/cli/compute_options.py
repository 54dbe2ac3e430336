"""What `generate`, `score` and `serve` compute in, where, and over how many processes."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import click

from unshard.library.precisions import PRECISIONS


class ComputeOptions(NamedTuple):
    """What the five options say, the same for all ranks."""

    dtype: str
    device: str
    cpu_offload_gb: float
    tp: int | None
    enforce_eager: bool


_dtype_option: Callable[..., Any] = click.option(
    "--dtype",
    type=click.Choice(list(PRECISIONS)),
    default="fp32",
    show_default=True,
    help="What to compute in; int8 and int4 keep the matrices in 8 and 4 bits.",
)
_device_option: Callable[..., Any] = click.option(
    "--device", default="cpu", show_default=True, help="cpu, cuda or cuda:N."
)
_tp_option: Callable[..., Any] = click.option(
    "--tp",
    type=click.IntRange(1),
    help="Tensor-parallel ranks: so many processes, each with its slice of the weights.  "
    "[default: 1, or as many as torchrun started]",
)
_offload_option: Callable[..., Any] = click.option(
    "--cpu-offload-gb",
    type=click.FloatRange(0),
    default=0.0,
    help="On a GPU that is too small: keep so many GiB of layers, of each rank, in the host's "
    "memory, and fetch each ahead of its turn.",
)
_eager_option: Callable[..., Any] = click.option(
    "--enforce-eager",
    is_flag=True,
    help="On a GPU: start its kernels one by one, instead of recording steps as CUDA graphs.",
)


def compute_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds all five, which `command` gets as `compute: ComputeOptions`."""

    @functools.wraps(command)
    def gathered(*arguments: Any, **options: Any) -> Any:
        compute = ComputeOptions(**{name: options.pop(name) for name in ComputeOptions._fields})
        return command(*arguments, compute=compute, **options)

    for option in (_eager_option, _tp_option, _offload_option, _device_option, _dtype_option):
        gathered = option(gathered)
    return gathered
