"""`unshard download … --reshard DST`: the reshard begins before its files are there."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import click

from unshard.cli.download_report import described, summary
from unshard.cli.resharding import (
    LAYOUT,
    asked_layout,
    copying,
    mention_missing_tokenizer,
    mention_omissions,
    plan_layout,
    print_result,
    refuse_other_command,
    refuse_others_options,
    result_json,
)
from unshard.cli.stderr import current
from unshard.download import Link
from unshard.dtypes import BY_NAME
from unshard.errors import UsageError
from unshard.execute.journal import recorded_fingerprint
from unshard.execute.reclaim import unfinished
from unshard.execute.run import run_plan
from unshard.index.checkpoint import Checkpoint
from unshard.library.download_source import Source
from unshard.library.streamed_reshard import Streamed, streamed_reshard
from unshard.manifest import Manifest
from unshard.plan.copy_plan import CopyPlan

COPY = ("workers", "memory_bytes", "verify", "sync", "overwrite")
"""Options that `run_plan` takes as they are."""


def download_and_reshard(
    link: Link,
    files: Manifest | Sequence[str],
    directory: Path,
    tokenizer: tuple[str, ...] | None,
    options: dict[str, Any],
    *,
    max_connections: int,
    max_rate: int | None,
    as_json: bool,
) -> None:
    """Does both, with `options` as of `streaming_options`, and prints what became of them, and of
    the `tokenizer` that was fetched before.

    Raises:
        UnshardError: whatever `streamed_reshard` raises.
    """
    source = Source(link, files, directory, max_connections, max_rate)
    destination, reclaim = options["reshard"], options["reclaim"]
    if destination.resolve() == source.directory.resolve():
        raise UsageError(
            f"{destination}: is the folder of the download", hint="name another one for --reshard"
        )
    plan_of = _planner(options, source.directory)
    left, asked = unfinished(destination), asked_layout(options)
    if left is not None:
        refuse_other_command(left, str(source.directory), destination, asked, reclaim=reclaim)
    with copying(overwrite=options["overwrite"], sync=options["sync"]) as reporter:
        streamed = streamed_reshard(
            source,
            destination,
            plan_of,
            partial(run_plan, **{name: options[name] for name in COPY}),
            asked=asked,
            left=left,
            reclaim=reclaim,
            progress=reporter,
            anew=options["overwrite"],
        )
    _print(streamed, tokenizer, recorded_fingerprint(destination), as_json=as_json)


def _planner(options: dict[str, Any], directory: Path) -> Callable[[Checkpoint], CopyPlan]:
    layout = {name: options[name] for name in LAYOUT}
    refuse_others_options(options["target"], layout)
    dtype = BY_NAME[options["dtype"]] if options["dtype"] else None

    def plan_of(checkpoint: Checkpoint) -> CopyPlan:
        mention_missing_tokenizer(checkpoint, directory)  # not beside its stand-ins
        plan = plan_layout(checkpoint, options["target"], dtype, **layout)
        mention_omissions(checkpoint, plan)
        return plan

    return plan_of


def _print(
    streamed: Streamed,
    tokenizer: tuple[str, ...] | None,
    fingerprint: str | None,
    *,
    as_json: bool,
) -> None:
    if as_json:
        report = streamed.report and described(streamed.report, tokenizer)
        result = result_json(streamed.paths, fingerprint)
        click.echo(json.dumps({"download": report, "reshard": result}))
    else:
        if streamed.report:
            current().note(summary(streamed.report, tokenizer))
        print_result(streamed.paths, fingerprint, as_json=False)
