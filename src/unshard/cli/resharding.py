"""The work of `unshard reshard` around the run: which plan, and what is said of it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from unshard.cli.display import progress
from unshard.cli.stderr import current
from unshard.dtypes import DType
from unshard.errors import UsageError
from unshard.execute.journal import WEIGHT_SUFFIXES, recorded_fingerprint
from unshard.execute.reclaim import Reclaiming
from unshard.execute.workers import peak_buffer_bytes
from unshard.index.checkpoint import Checkpoint
from unshard.index.optimizer_state import read_optimizer_state
from unshard.library.resharded import note_of, resharded_here
from unshard.plan.copy_plan import CopyPlan
from unshard.plan.metaseq_target import plan_metaseq
from unshard.plan.plan_json import plan_to_json
from unshard.plan.safetensors_target import DEFAULT_MAX_FILE_BYTES, plan_safetensors
from unshard.progress import Progress, shown_bytes

LAYOUT = ("tp_size", "fsdp_size", "flat", "optimizer", "max_file_bytes")
"""Options that `plan_layout` takes as they are."""


def asked_layout(options: Mapping[str, object]) -> str:
    """The layout that the options name, in one line."""
    return json.dumps([options[name] for name in ("target", "dtype", *LAYOUT)])


def refuse_others_options(target: str, layout: Mapping[str, object]) -> None:
    """Options of one target mean nothing to the other, and are not ignored.

    Raises:
        click.UsageError: an option of the other target is given.
    """
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


def plan_layout(
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
    """The plan that writes `checkpoint` in the layout that the options name.

    Raises:
        UsageError, CheckpointError: as from planning that layout.
    """
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


def refuse_other_command(
    left: Reclaiming, source: str, destination: Path, asked: str, *, reclaim: bool
) -> None:
    """A reshard that was deleting its sources can only be finished, by the same command.

    Raises:
        UsageError: this is another one.
    """
    noted = note_of(Path(left.files[0]).parent, destination)
    is_same = reclaim and (left.plan.source, left.folder) == (source, str(Path.cwd()))
    if not is_same or (noted is not None and noted.asked != asked):
        raise UsageError(
            f"{destination}: holds an unfinished reshard of {left.plan.source} with --reclaim",
            hint=f"repeat that command in {left.folder}: its source files are partly deleted",
        )
    current().note(f"note: goes on with the reshard that was begun here, to {left.plan.target}")


def mention_missing_tokenizer(checkpoint: Checkpoint, place: object = None) -> None:
    """Says how the output can have a tokenizer: from `place`, or the checkpoint's own."""
    if not checkpoint.companions:
        current().note(
            f"note: no tokenizer beside {place or checkpoint.source}: put gpt2-vocab.json and "
            "gpt2-merges.txt there, and they go along"
        )


def mention_omissions(checkpoint: Checkpoint, plan: CopyPlan) -> None:
    """Says what the output will lack that the index does not list as a tensor."""
    for omission in plan.omissions:
        if omission.name not in checkpoint.index:
            current().note(f"note: leaves out {omission.name}: {omission.reason}")


@contextmanager
def copying(*, overwrite: bool, sync: bool) -> Iterator[Progress]:
    """Shows the progress of a reshard, and says how to go on with one that is stopped."""
    try:
        with progress() as reporter:
            yield reporter
    except KeyboardInterrupt:
        again = " without --overwrite" if overwrite else ""
        follows = "goes on from here" if sync else "starts anew"
        current().note(f"stopped; run the same command again{again}: the reshard {follows}")
        raise


def print_result(paths: Sequence[Path], fingerprint: str | None, *, as_json: bool) -> None:
    """The files that were written; on stderr the fingerprint of what is in them."""
    if as_json:
        click.echo(json.dumps(result_json(paths, fingerprint)))
        return
    for path in paths:
        click.echo(path)
    if fingerprint is not None:
        current().note(f"fingerprint {fingerprint}")


def print_done(source: str, destination: Path, asked: str | None, *, as_json: bool) -> bool:
    """Whether `source` cannot be opened because what is `asked` was done with it, and its files
    were deleted; then that is said, and the result as it was then.

    Raises:
        UsageError, CheckpointError: it became something else, or that is not whole any more.
    """
    paths = resharded_here(source, destination, asked)
    if paths is None:
        return False
    current().note(f"{source}: all of it was resharded before, and then deleted")
    print_result(paths, recorded_fingerprint(destination), as_json=as_json)
    return True


def result_json(paths: Sequence[Path], fingerprint: str | None) -> dict[str, Any]:
    """The result as JSON values."""
    files = [str(path) for path in paths]
    num_bytes = sum(path.stat().st_size for path in paths)
    return {"files": files, "bytes": num_bytes, "fingerprint": fingerprint}


def print_plan(checkpoint: Checkpoint, plan: CopyPlan, workers: int, *, as_json: bool) -> None:
    """What would run, for people or whole."""
    if as_json:
        click.echo(json.dumps(plan_to_json(plan)))
        return
    ledger = checkpoint.index.ledger
    click.echo(f"from    {checkpoint.source} ({checkpoint.layout.kind})")
    click.echo(f"to      {plan.target}, {shown_bytes(plan.num_bytes)}")
    click.echo(
        f"reads   {shown_bytes(ledger.stored_bytes)} from {len(plan.source_paths())} files, "
        f"{ledger.replica_bytes:,} bytes of copies compared, {ledger.padding_bytes:,} of padding "
        "left out"
    )
    click.echo(f"memory  {shown_bytes(peak_buffer_bytes(workers))} of buffers, {workers} workers")
    for file in plan.files:
        spans = sum(len(record.spans) for record in file.records)
        tensors = f"  {spans:>5} tensors" if file.name.endswith(WEIGHT_SUFFIXES) else ""
        click.echo(f"  {file.name:<40} {file.num_bytes:>16,} bytes{tensors}")
    for omission in plan.omissions:
        click.echo(f"  leaves out {omission.name}: {omission.reason}")
