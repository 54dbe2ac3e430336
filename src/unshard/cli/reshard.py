"""`unshard reshard SRC DST`."""

from __future__ import annotations

import json

import click

from unshard.cli.display import progress
from unshard.cli.executors import chosen_executor, executor_options
from unshard.cli.quantities import ByteCount, format_bytes
from unshard.errors import UsageError
from unshard.execute.run import run_plan
from unshard.execute.workers import DEFAULT_WORKERS, peak_buffer_bytes
from unshard.index.build import open_checkpoint
from unshard.index.checkpoint import Checkpoint
from unshard.plan.copy_plan import CopyPlan
from unshard.plan.metaseq_target import plan_metaseq
from unshard.plan.plan_json import plan_to_json
from unshard.plan.safetensors_target import DEFAULT_MAX_FILE_BYTES, plan_safetensors


@click.command(
    help="Write SRC into the folder DST in another layout: `safetensors` (Hugging Face, with "
    "config and tokenizer) or `metaseq` (consolidated reshard-model_part-N.pt). Memory stays "
    "constant; stopped at any moment, the same command goes on."
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
    "--tp",
    "tp_size",
    type=click.IntRange(1),
    help="metaseq: number of tensor-parallel parts.  [default: as the source]",
)
@click.option(
    "--max-file-size",
    "max_file_bytes",
    type=ByteCount(),
    default=DEFAULT_MAX_FILE_BYTES,
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
@click.option("--overwrite", is_flag=True, help="Replace files of the same names in DST.")
@click.option("--dry-run", is_flag=True, help="Print the plan that would run, and stop.")
@click.option("--json", "as_json", is_flag=True, help="Print the plan or the result as JSON.")
def command(
    source: str,
    destination: str,
    target: str,
    tp_size: int | None,
    max_file_bytes: int,
    workers: int,
    executor: str,
    ray_address: str | None,
    overwrite: bool,
    dry_run: bool,
    as_json: bool,
) -> None:
    if tp_size is not None and target != "metaseq":
        raise click.UsageError("--tp goes with --to metaseq: safetensors are not split by rank")
    checkpoint = open_checkpoint(source)
    if tp_size is not None:
        _refuse_half_heads(tp_size, checkpoint.config.num_heads)
    if not checkpoint.companions:
        click.echo(
            f"note: no tokenizer beside {source}: put gpt2-vocab.json and gpt2-merges.txt there, "
            "and they go along",
            err=True,
        )
    plan = (
        plan_metaseq(checkpoint, tp_size)
        if target == "metaseq"
        else plan_safetensors(checkpoint, max_file_bytes)
    )
    if dry_run:
        _print_plan(checkpoint, plan, workers, as_json)
        return
    somewhere = chosen_executor(executor, workers, ray_address)
    with progress() as reporter:
        paths = run_plan(
            plan,
            destination,
            workers=1 if somewhere else workers,  # of each process
            overwrite=overwrite,
            executor=somewhere,
            progress=reporter,
        )
    if as_json:
        click.echo(json.dumps({"files": [str(path) for path in paths], "bytes": plan.num_bytes}))
        return
    for path in paths:
        click.echo(path)


def _refuse_half_heads(tp_size: int, num_heads: int) -> None:
    if num_heads % tp_size:
        fitting = ", ".join(str(n) for n in range(1, num_heads + 1) if num_heads % n == 0)
        raise UsageError(f"--tp {tp_size}: the model has {num_heads} heads", hint=f"use {fitting}")


def _print_plan(checkpoint: Checkpoint, plan: CopyPlan, workers: int, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(plan_to_json(plan)))
        return
    ledger = checkpoint.index.ledger
    click.echo(f"from    {checkpoint.source} ({checkpoint.layout.kind})")
    click.echo(f"to      {plan.target}, {format_bytes(plan.num_bytes)}")
    click.echo(
        f"reads   {format_bytes(ledger.stored_bytes)} from {len(plan.source_paths())} files, "
        f"{ledger.replica_bytes:,} bytes of copies compared, {ledger.padding_bytes:,} of padding "
        "left out"
    )
    click.echo(f"memory  {format_bytes(peak_buffer_bytes(workers))} of buffers, {workers} workers")
    for file in plan.files:
        spans = sum(len(record.spans) for record in file.records)
        click.echo(f"  {file.name:<40} {file.num_bytes:>16,} bytes  {spans:>5} tensors")
    for omission in plan.omissions:
        click.echo(f"  leaves out {omission.name}: {omission.reason}")
