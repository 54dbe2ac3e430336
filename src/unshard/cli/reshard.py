"""`unshard reshard SRC DST`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from unshard.cli.display import progress
from unshard.cli.executors import chosen_executor, executor_options
from unshard.cli.quantities import ByteCount
from unshard.cli.resharding import (
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
from unshard.execute.workers import DEFAULT_MEMORY_BYTES, DEFAULT_WORKERS
from unshard.index.build import open_checkpoint
from unshard.index.checkpoint import Checkpoint


@click.command(
    help="Write SRC into the folder DST in another layout: `safetensors` (Hugging Face, with "
    "config and tokenizer) or `metaseq` (consolidated reshard-model_part-N.pt, or FSDP shards). "
    "Memory stays constant; stopped at any moment, the same command goes on."
)
@click.argument("source", metavar="SRC")
@click.argument("destination", metavar="DST")
@click.option(
    "--to",
    "target",
    type=click.Choice(["safetensors", "metaseq"]),
    required=True,
    help="The layout to write.",
)
@click.option(
    "--dtype",
    type=click.Choice(["fp16", "bf16", "fp32"]),
    help="Cast the weights.  [default: as they are]",
)
@click.option(
    "--tp",
    "tp_size",
    type=click.IntRange(1),
    help="metaseq: number of tensor-parallel parts.  [default: as the source]",
)
@click.option(
    "--fsdp",
    "fsdp_size",
    type=click.IntRange(1),
    help="metaseq: number of FSDP shards of each part.  [default: 1]",
)
@click.option(
    "--flat/--unflattened",
    default=None,
    help="metaseq: flat parameters, as the trainer saves, or tensors by name.  "
    "[default: flat for several FSDP shards]",
)
@click.option(
    "--optimizer",
    type=click.Choice(["keep", "skip"]),
    help="metaseq: the optimizer's state.  [default: skip]",
)
@click.option(
    "--max-file-size",
    "max_file_bytes",
    type=ByteCount(),
    help="safetensors: start a new file beyond this size.  [default: 5GB]",
)
@click.option(
    "--workers",
    type=click.IntRange(1),
    default=DEFAULT_WORKERS,
    show_default=True,
    help="Threads that copy, or CPUs of the cluster.",
)
@executor_options
@click.option(
    "--memory",
    "memory_bytes",
    type=ByteCount(),
    default=DEFAULT_MEMORY_BYTES,
    help="Memory that each process keeps to.  [default: 256MB]",
)
@click.option(
    "--verify/--no-verify",
    default=True,
    help="Prove on the way that what is written is what was read, and record the fingerprint.  "
    "[default: verify]",
)
@click.option(
    "--sync/--no-sync",
    default=True,
    help="Wait until all is on the disk. Without, it is faster, and a stopped run starts anew.  "
    "[default: sync]",
)
@click.option(
    "--reclaim",
    is_flag=True,
    help="Delete each file of SRC once all of it is written, synced and proved: the disk need not "
    "hold both. There is no way back.",
)
@click.option("--overwrite", is_flag=True, help="Replace files of the same names in DST.")
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
        _mention_missing_tokenizer(checkpoint)
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
    print_result(paths, plan, recorded_fingerprint(Path(destination)), as_json=as_json)


def _mention_missing_tokenizer(checkpoint: Checkpoint) -> None:
    if not checkpoint.companions:
        current().note(
            f"note: no tokenizer beside {checkpoint.source}: put gpt2-vocab.json and "
            "gpt2-merges.txt there, and they go along"
        )
