"""Where a reshard copies: the options that say so, and the executor that they mean."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import click

from unshard.execute.copy import Copier, Executor, TaskResult
from unshard.execute.tasks import CopyTask
from unshard.library.deferred import deferred

on_ray = deferred("unshard.execute.ray_executor", "on_ray", extra="ray")


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
        "folders: on as many of its CPUs as --workers.",
    )
    return name(address(command))


def chosen_executor(name: str, workers: int, ray_address: str | None) -> Executor | None:
    """The executor that the options mean; None for threads of this process.

    Raises:
        UsageError: Ray is not installed.
    """
    if name == "ray":
        return _without_stdout(on_ray(workers, ray_address or "auto"))
    if ray_address is not None:
        raise click.UsageError("--ray-address goes with --executor ray")
    return None


def _without_stdout(executor: Executor) -> Executor:
    """Ray prints there, in colours, when a worker dies; stdout is for the result."""

    def run(copier: Copier, tasks: Sequence[CopyTask]) -> Generator[TaskResult]:
        with Path(os.devnull).open("w") as nowhere, redirect_stdout(nowhere):
            yield from executor(copier, tasks)

    return run
