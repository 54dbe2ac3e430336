"""`unshard inspect SRC`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from unshard.architectures.opt import weight_names
from unshard.cli.display import progress
from unshard.cli.findings import health_json, health_lines
from unshard.cli.output_path import OutputPath
from unshard.cli.printable import printable
from unshard.cli.tensor_tree import build_tree, tree_lines
from unshard.errors import IntegrityError, UsageError
from unshard.execute.workers import DEFAULT_WORKERS
from unshard.health.findings import HealthReport
from unshard.health.html_report.page import render_page
from unshard.health.scan import scan_health
from unshard.index.build import open_checkpoint
from unshard.index.checkpoint import Checkpoint
from unshard.index.file_contents import FileContents, file_contents
from unshard.progress import shown_bytes


@click.command(
    help="Say what SRC is: layout, model, parameters, where every byte belongs. Reads headers "
    "only, unless --health asks for all weights; then exit 3 when something is corrupt."
)
@click.argument("source", metavar="SRC")
@click.option("--tensors", is_flag=True, help="Show the tree of tensors, equal layers folded.")
@click.option("--files", is_flag=True, help="Show what each file holds.")
@click.option(
    "--health",
    is_flag=True,
    help="Read every weight and look for NaN, Inf, outliers, unwritten parts and copies that "
    "differ; name the file, byte, tensor and index of each.",
)
@click.option(
    "--html",
    type=OutputPath(dir_okay=False),
    help="With --health: also write one self-contained page with histograms to this file.",
)
@click.option(
    "--workers",
    type=click.IntRange(1),
    help=f"With --health: threads that read and count.  [default: {DEFAULT_WORKERS}]",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object with everything.")
def command(
    source: str,
    tensors: bool,
    files: bool,
    health: bool,
    html: Path | None,
    workers: int | None,
    as_json: bool,
) -> None:
    for option, value in (("--html", html), ("--workers", workers)):
        if value is not None and not health:
            raise click.UsageError(f"{option} goes with --health")
    if html is not None and not html.absolute().parent.is_dir():
        raise UsageError(f"{html}: no such folder {html.parent}")
    checkpoint = open_checkpoint(source)
    report = _scan(checkpoint, workers or DEFAULT_WORKERS) if health else None
    if report is not None and html is not None:
        page = render_page(report, facts(checkpoint))
        html.write_text(page, "utf-8", errors="backslashreplace")  # a file name can be any bytes
    if as_json:
        click.echo(json.dumps(describe(checkpoint, report), indent=2))
    else:
        for line in _lines(checkpoint, report, tensors=tensors, files=files):
            click.echo(line)
        if html is not None:
            click.echo(f"page        {printable(str(html))}")
    if report is not None and not report.is_healthy:
        raise IntegrityError(
            f"{source}: {len({finding.tensor for finding in report.corrupt})} tensors are corrupt",
            hint="fetch the files named above again; `unshard verify` with the manifest tells "
            "which of them differ from the release",
        )


def _scan(checkpoint: Checkpoint, workers: int) -> HealthReport:
    with progress() as reporter:
        return scan_health(checkpoint.source, checkpoint.index, workers=workers, progress=reporter)


def _lines(
    checkpoint: Checkpoint, report: HealthReport | None, *, tensors: bool, files: bool
) -> Iterator[str]:
    yield from summary(checkpoint)
    if files:
        yield from file_lines(file_contents(checkpoint))
    if tensors:
        yield from tree_lines(build_tree(checkpoint.index.values()))
    if report is not None:
        yield from health_lines(report)


def summary(checkpoint: Checkpoint) -> Iterator[str]:
    """A few lines for people."""
    evidence = checkpoint.layout.evidence
    for label, text in facts(checkpoint).items():
        yield f"{label:<12}{text}"
        if label == "layout":
            yield from (f"{'':<12}{sentence}" for sentence in evidence)


def facts(checkpoint: Checkpoint) -> dict[str, str]:
    """What the checkpoint is, each in one phrase."""
    layout, config, index = checkpoint.layout, checkpoint.config, checkpoint.index
    ledger = index.ledger
    weights = [index[name] for name in weight_names(index)]
    norm = "pre-norm" if config.pre_norm else "post-norm"
    return {
        "layout": f"{layout.kind}: {layout.tp_size} tensor-parallel x {layout.fsdp_size} FSDP, "
        f"{len(layout.files)} files",
        "model": f"OPT, {norm}: {config.num_layers} layers, hidden {config.hidden_size}, "
        f"{config.num_heads} heads, ffn {config.ffn_dim}, vocabulary {config.vocab_size}, "
        f"{config.max_positions} positions",
        "parameters": f"{sum(weight.num_elements for weight in weights):,} in {len(weights)} "
        f"tensors ({', '.join(sorted({weight.dtype.name for weight in weights}))})",
        "weights": f"{shown_bytes(ledger.unique_bytes)} of {shown_bytes(ledger.stored_bytes)} "
        f"stored; the rest is {ledger.replica_bytes:,} bytes of copies and "
        f"{ledger.padding_bytes:,} of padding",
        "tokenizer": ", ".join(checkpoint.companions) or "no files beside the weights",
    }


def file_lines(files: list[FileContents]) -> Iterator[str]:
    """A table with a row per file."""
    names = [printable(Path(file.path).name) for file in files]
    width = max(map(len, names))
    yield (
        f"{'file':<{width}} {'tp':>4} {'fsdp':>5} {'tensors':>8} {'bytes':>16} {'weights':>16} "
        f"{'copies':>14} {'other':>12}"
    )
    for name, file in zip(names, files, strict=True):
        tp_rank, fsdp_rank = (
            "–" if rank is None else str(rank) for rank in (file.tp_rank, file.fsdp_rank)
        )
        yield (
            f"{name:<{width}} {tp_rank:>4} {fsdp_rank:>5} {file.num_tensors:>8} "
            f"{file.num_bytes:>16,} {file.weight_bytes:>16,} {file.replica_bytes:>14,} "
            f"{file.other_bytes:>12,}"
        )


def describe(checkpoint: Checkpoint, report: HealthReport | None = None) -> dict[str, Any]:
    """The same, every file and every tensor, for programs."""
    layout, config, ledger = checkpoint.layout, checkpoint.config, checkpoint.index.ledger
    health = {"health": health_json(report)} if report is not None else {}
    return {
        "source": checkpoint.source,
        "layout": {
            "kind": layout.kind,
            "tp_size": layout.tp_size,
            "fsdp_size": layout.fsdp_size,
            "fused_qkv": layout.fused_qkv,
            "evidence": list(layout.evidence),
            "files": [str(path) for path in layout.files],
        },
        "config": {name: getattr(config, name) for name in config.__slots__},
        "bytes": {name: getattr(ledger, name) for name in ledger.__slots__},
        "files": [_file_json(file) for file in file_contents(checkpoint)],
        "tensors": [
            {"name": tensor.name, "dtype": tensor.dtype.name, "shape": list(tensor.shape)}
            for tensor in checkpoint.index.values()
        ],
        **health,
    }


def _file_json(file: FileContents) -> dict[str, Any]:
    return {
        **{name: getattr(file, name) for name in file.__slots__},
        "other_bytes": file.other_bytes,
    }
