"""`unshard reshard SRC DST`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import click

from unshard.cli.display import progress
from unshard.cli.quantities import ByteCount, format_bytes
from unshard.dtypes import BY_NAME, DType
from unshard.execute.run import run_plan
from unshard.execute.workers import DEFAULT_WORKERS, peak_buffer_bytes
from unshard.index.build import open_checkpoint
from unshard.index.checkpoint import Checkpoint
from unshard.index.optimizer_state import read_optimizer_state
from unshard.plan.copy_plan import CopyPlan
from unshard.plan.metaseq_target import plan_metaseq
from unshard.plan.plan_json import plan_to_json
from unshard.plan.safetensors_target import DEFAULT_MAX_FILE_BYTES, plan_safetensors


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
    help="Threads that copy.",
)
@click.option("--overwrite", is_flag=True, help="Replace files of the same names in DST.")
@click.option("--dry-run", is_flag=True, help="Print the plan that would run, and stop.")
@click.option("--json", "as_json", is_flag=True, help="Print the plan or the result as JSON.")
def command(
    source: str,
    destination: str,
    target: str,
    dtype: str | None,
    workers: int,
    overwrite: bool,
    dry_run: bool,
    as_json: bool,
    **layout: Any,
) -> None:
    _refuse_others_options(target, layout)
    checkpoint = open_checkpoint(source)
    if not checkpoint.companions:
        click.echo(
            f"note: no tokenizer beside {source}: put gpt2-vocab.json and gpt2-merges.txt there, "
            "and they go along",
            err=True,
        )
    plan = _plan(checkpoint, target, BY_NAME[dtype] if dtype else None, **layout)
    if dry_run:
        _print_plan(checkpoint, plan, workers, as_json)
        return
    for omission in plan.omissions:
        if omission.name not in checkpoint.index:
            click.echo(f"note: leaves out {omission.name}: {omission.reason}", err=True)
    with progress() as reporter:
        paths = run_plan(plan, destination, workers=workers, overwrite=overwrite, progress=reporter)
    if as_json:
        click.echo(json.dumps({"files": [str(path) for path in paths], "bytes": plan.num_bytes}))
        return
    for path in paths:
        click.echo(path)


def _refuse_others_options(target: str, layout: Mapping[str, object]) -> None:
    """Options of one target mean nothing to the other, and are not ignored."""
    own = {"safetensors": {"max_file_bytes"}}.get(target, set(layout) - {"max_file_bytes"})
    for name, value in layout.items():
        if value is not None and name not in own:
            other = "safetensors" if target == "metaseq" else "metaseq"
            raise click.UsageError(f"{OPTION_NAMES[name]} goes with --to {other}")


OPTION_NAMES = {
    "tp_size": "--tp",
    "fsdp_size": "--fsdp",
    "flat": "--flat/--unflattened",
    "optimizer": "--optimizer",
    "max_file_bytes": "--max-file-size",
}


def _plan(
    checkpoint: Checkpoint,
    target: str,
    dtype: DType | None,
    *,
    tp_size: int | None,
    fsdp_size: int | None,
    flat: bool | None,
    optimizer: str | None,
    max_file_bytes: int | None,
) -> CopyPlan:
    if target == "safetensors":
        return plan_safetensors(checkpoint, max_file_bytes or DEFAULT_MAX_FILE_BYTES, dtype)
    return plan_metaseq(
        checkpoint,
        tp_size,
        fsdp_size=fsdp_size or 1,
        flat=flat,
        dtype=dtype,
        optimizer=read_optimizer_state(checkpoint) if optimizer == "keep" else None,
    )


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
