"""`unshard score SRC FILE`."""

from __future__ import annotations

import click

from unshard.cli.compute_options import ComputeOptions, compute_options
from unshard.cli.stderr import events_option
from unshard.errors import UsageError
from unshard.library.deferred import deferred

score = deferred("unshard.cli.scoring", "score")


@click.command(
    help="Log-likelihood and perplexity of each document of FILE (`-`: stdin) under the model SRC, "
    "in any layout, as JSON lines; the last line is about all. Each line of FILE is a document; "
    "of JSON lines, its field `text`."
)
@click.argument("source", metavar="SRC")
@click.argument("file", metavar="FILE")
@click.option(
    "--jsonl", is_flag=True, help="FILE holds JSON lines.  [default: if it ends in .jsonl]"
)
@click.option("--whole-file", is_flag=True, help="All of FILE is one document.")
@click.option(
    "--stride",
    type=click.IntRange(1),
    help="Tokens by which the window moves on over a document that is longer than the context."
    "  [default: half of the context]",
)
@click.option(
    "--output",
    metavar="PATH",
    help="Write to this file; if an earlier run did, go on where it ended.  [default: stdout]",
)
@compute_options
@events_option
def command(
    source: str,
    file: str,
    jsonl: bool,
    whole_file: bool,
    stride: int | None,
    output: str | None,
    compute: ComputeOptions,
) -> None:
    if jsonl and whole_file:
        raise UsageError("--jsonl and --whole-file exclude each other", hint="leave one away")
    score(
        source,
        file,
        form="jsonl" if jsonl else "whole" if whole_file else None,
        stride=stride,
        output=output,
        compute=compute,
    )
