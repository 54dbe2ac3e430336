"""`unshard reshard SRC DST`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from unshard.cli.display import progress
from unshard.cli.executors import chosen_executor, executor_options
from unshard.cli.reshard_options import copy_options, layout_options
from unshard.cli.resharding import (
    mention_missing_tokenizer,
    mention_omissions,
    plan_layout,
    print_plan,
    print_result,
    refuse_other_command,
    refuse_others_options,
)
from unshard.cli.stderr import current, events_option
from unshard.dtypes import BY_NAME
from unshard.execute.journal import recorded_fingerprint
from unshard.execute.reclaim import unfinished
from unshard.execute.run import run_plan
from unshard.index.build import open_checkpoint


@click.command(
    help="Write SRC into the folder DST in another layout: `safetensors` (Hugging Face, with "
    "config and tokenizer) or `metaseq` (consolidated reshard-model_part-N.pt, or FSDP shards). "
    "Memory stays constant; stopped at any moment, the same command goes on."
)
@click.argument("source", metavar="SRC")
@click.argument("destination", metavar="DST")
@layout_options(required=True)
@copy_options
@executor_options
@click.option("--dry-run", is_flag=True, help="Print the plan that would run, and stop.")
@events_option
@click.option("--json", "as_json", is_flag=True, help="Print the plan or the result as JSON.")
def command(
    source: str,
    destination: str,
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
    left = unfinished(Path(destination))
    if left is not None:
        refuse_other_command(left, source, destination, reclaim=reclaim and not dry_run)
        plan, files = left.plan, left.files
    else:
        checkpoint = open_checkpoint(source)
        mention_missing_tokenizer(checkpoint)
        plan = plan_layout(checkpoint, target, BY_NAME[dtype] if dtype else None, **layout)
        files = tuple(map(str, checkpoint.layout.files))
        if dry_run:
            print_plan(checkpoint, plan, workers, as_json=as_json)
            return
        mention_omissions(checkpoint, plan)
    cluster = chosen_executor(executor, workers, ray_address)
    try:
        with progress() as reporter:
            paths = run_plan(
                plan,
                destination,
                workers=1 if cluster else workers,
                memory_bytes=memory_bytes,
                verify=verify,
                sync=sync,
                reclaim=files if reclaim else (),
                overwrite=overwrite,
                executor=cluster,
                progress=reporter,
            )
    except KeyboardInterrupt:
        again = " without --overwrite" if overwrite else ""
        follows = "it goes on from here" if sync else "it starts anew"
        current().note(f"stopped; run the same command again{again}: {follows}")
        raise
    print_result(paths, recorded_fingerprint(Path(destination)), as_json=as_json)
