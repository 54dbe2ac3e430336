"""`unshard reshard SRC DST`."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import click

from unshard.cli.executors import chosen_executor, executor_options
from unshard.cli.output_path import OutputPath
from unshard.cli.reshard_options import copy_options, layout_options
from unshard.cli.resharding import (
    asked_layout,
    copying,
    mention_missing_tokenizer,
    mention_omissions,
    plan_layout,
    print_done,
    print_plan,
    print_result,
    refuse_other_command,
    refuse_others_options,
)
from unshard.cli.stderr import events_option
from unshard.dtypes import BY_NAME
from unshard.errors import CheckpointError, UsageError
from unshard.execute.journal import recorded_fingerprint
from unshard.execute.reclaim import unfinished
from unshard.execute.run import run_plan
from unshard.index.build import open_checkpoint
from unshard.library.resharded import note_resharded
from unshard.plan.copy_plan import CopyPlan


@click.command(
    help="Write SRC into the folder DST in another layout: `safetensors` (Hugging Face, with "
    "config and tokenizer) or `metaseq` (consolidated reshard-model_part-N.pt, or FSDP shards). "
    "Memory stays constant; stopped at any moment, the same command goes on."
)
@click.argument("source", metavar="SRC")
@click.argument("destination", metavar="DST", type=OutputPath())
@layout_options(required=True)
@copy_options
@executor_options
@click.option("--dry-run", is_flag=True, help="Print the plan that would run, and stop.")
@events_option
@click.option("--json", "as_json", is_flag=True, help="Print the plan or the result as JSON.")
def command(
    source: str,
    destination: Path,
    target: str,
    dtype: str | None,
    workers: int,
    executor: str,
    ray_address: str | None,
    memory_bytes: int,
    verify: bool,
    sync: bool,
    reclaim: bool,
    overwrite: bool,
    dry_run: bool,
    as_json: bool,
    **layout: Any,
) -> None:
    refuse_others_options(target, layout)
    asked = asked_layout({"target": target, "dtype": dtype, **layout})
    deletes = reclaim and not dry_run
    left = unfinished(destination)
    if left is not None:
        refuse_other_command(left, source, destination, asked, reclaim=deletes)
        plan, files = left.plan, left.files
    else:
        try:
            checkpoint = open_checkpoint(source)
        except (UsageError, CheckpointError):
            if not print_done(source, destination, asked if deletes else None, as_json=as_json):
                raise
            return
        mention_missing_tokenizer(checkpoint)
        plan = plan_layout(checkpoint, target, BY_NAME[dtype] if dtype else None, **layout)
        files = tuple(map(str, checkpoint.layout.files))
        if dry_run:
            print_plan(checkpoint, plan, workers, as_json=as_json)
            return
        mention_omissions(checkpoint, plan)
    cluster = chosen_executor(executor, workers, ray_address)
    with copying(overwrite=overwrite, sync=sync) as reporter:
        paths = run_plan(
            plan,
            destination,
            workers=1 if cluster else workers,
            memory_bytes=memory_bytes,
            verify=verify,
            sync=sync,
            reclaim=files if reclaim else (),
            before_reclaim=partial(_note, files, destination, asked, plan, goes_on=bool(left)),
            overwrite=overwrite,
            executor=cluster,
            progress=reporter,
        )
    print_result(paths, recorded_fingerprint(destination), as_json=as_json)


def _note(
    files: Sequence[str], destination: Path, asked: str, plan: CopyPlan, *, goes_on: bool
) -> None:
    """Leaves with `files` what becomes of them."""
    folder = Path(files[0]).parent
    names = [os.path.relpath(file, folder) for file in files]
    note_resharded(folder, names, destination, asked, plan, goes_on=goes_on)
