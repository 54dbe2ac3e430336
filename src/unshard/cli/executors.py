"""Where a reshard copies: the options that say so, and the executor that they mean."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from unshard.cli.deferred import deferred
from unshard.execute.run import Executor

on_ray = deferred("unshard.execute.ray_executor", "on_ray")


def executor_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds `executor` and `ray_address` to a command's options."""
    address = click.option(
        "--ray-address",
        metavar="HOST:PORT",
        help="Which Ray cluster.  [default: the one this machine is a node of]",
    )
    name = click.option(
        "--executor",
        type=click.Choice(["threads", "ray"]),
        default="threads",
        show_default=True,
        help="Copy in this process, or on the machines of a running Ray cluster that sees the "
        "folders.",
    )
    return name(address(command))


def chosen_executor(name: str, workers: int, ray_address: str | None) -> Executor | None:
    """The executor that the options mean; None for threads of this process.

    Raises:
        UsageError: Ray is not installed.
    """
    if name == "ray":
        found: Executor = on_ray(workers, ray_address or "auto")
        return found
    if ray_address is not None:
        raise click.UsageError("--ray-address goes with --executor ray")
    return None
