"""The options of a reshard, which `unshard reshard` and `unshard download --reshard` share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from unshard.cli.quantities import ByteCount
from unshard.execute.workers import DEFAULT_MEMORY_BYTES, DEFAULT_WORKERS

Command = Callable[..., Any]


def layout_options(*, required: bool) -> Callable[[Command], Command]:
    """Adds what to write: `target` (`required` or not), `dtype`, `tp_size`, `fsdp_size`,
    `flat`, `optimizer` and `max_file_bytes`."""
    target = click.option(
        "--to",
        "target",
        type=click.Choice(["safetensors", "metaseq"]),
        required=required,
        help="The layout to write.",
    )
    return lambda command: _add((target, *_LAYOUT), command)


def copy_options(command: Command) -> Command:
    """Adds how to write it: `workers`, `memory_bytes`, `verify`, `sync`, `reclaim` and
    `overwrite`."""
    return _add(_COPY, command)


def _add(options: tuple[Callable[[Command], Command], ...], command: Command) -> Command:
    for option in reversed(options):
        command = option(command)
    return command


_LAYOUT = (
    click.option(
        "--dtype",
        type=click.Choice(["fp16", "bf16", "fp32"]),
        help="Cast the weights.  [default: as they are]",
    ),
    click.option(
        "--tp",
        "tp_size",
        type=click.IntRange(1),
        help="metaseq: number of tensor-parallel parts.  [default: as the source]",
    ),
    click.option(
        "--fsdp",
        "fsdp_size",
        type=click.IntRange(1),
        help="metaseq: number of FSDP shards of each part.  [default: 1]",
    ),
    click.option(
        "--flat/--unflattened",
        default=None,
        help="metaseq: flat parameters, as the trainer saves, or tensors by name.  "
        "[default: flat for several FSDP shards]",
    ),
    click.option(
        "--optimizer",
        type=click.Choice(["keep", "skip"]),
        help="metaseq: the optimizer's state.  [default: skip]",
    ),
    click.option(
        "--max-file-size",
        "max_file_bytes",
        type=ByteCount(),
        help="safetensors: start a new file beyond this size.  [default: 5GB]",
    ),
)

_COPY = (
    click.option(
        "--workers",
        type=click.IntRange(1),
        default=DEFAULT_WORKERS,
        show_default=True,
        help="Threads that copy.",
    ),
    click.option(
        "--memory",
        "memory_bytes",
        type=ByteCount(),
        default=DEFAULT_MEMORY_BYTES,
        help="Memory that each process keeps to.  [default: 256MB]",
    ),
    click.option(
        "--verify/--no-verify",
        default=True,
        help="Prove on the way that what is written is what was read, and record the "
        "fingerprint.  [default: verify]",
    ),
    click.option(
        "--sync/--no-sync",
        default=True,
        help="Wait until all is on the disk. Without, it is faster, and a stopped run starts "
        "anew.  [default: sync]",
    ),
    click.option(
        "--reclaim",
        is_flag=True,
        help="Delete each file that is read once all of it is written, synced and proved: the "
        "disk need not hold both. There is no way back.",
    ),
    click.option("--overwrite", is_flag=True, help="Replace files of the same names in DST."),
)
