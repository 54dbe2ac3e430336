"""The options of `unshard download … --reshard DST`."""

from __future__ import annotations

from typing import Any

import click
from click.core import ParameterSource

from unshard.cli.output_path import OutputPath
from unshard.cli.reshard_options import Command, copy_options, layout_options


def streaming_options(command: Command) -> Command:
    """Adds `--reshard` and all options of a reshard, as one keyword argument each."""
    reshard = click.option(
        "--reshard",
        "reshard",
        type=OutputPath(),
        metavar="DST",
        help="Write the checkpoint into DST in another layout, beginning before all of it is "
        "here. The options that follow go with it; see `unshard reshard`.",
    )
    return reshard(layout_options(required=False)(copy_options(command)))


def is_wanted(options: dict[str, Any]) -> bool:
    """Whether `--reshard` is among the `options` that `streaming_options` added.

    Raises:
        click.UsageError: others of them are, without it; or --to is missing.
    """
    context = click.get_current_context()
    for parameter in context.command.params:
        given = context.get_parameter_source(parameter.name or "") == ParameterSource.COMMANDLINE
        if given and parameter.name in options and options["reshard"] is None:
            raise click.UsageError(f"{parameter.opts[0]} goes with --reshard DST", context)
    if options["reshard"] is not None and options["target"] is None:
        raise click.UsageError("--reshard needs --to, the layout to write", context)
    return options["reshard"] is not None
