"""`unshard inspect SRC`."""

from __future__ import annotations

import json
from typing import Any

import click

from unshard.architectures.opt import weight_names
from unshard.cli.quantities import format_bytes
from unshard.index.build import open_checkpoint
from unshard.index.checkpoint import Checkpoint


@click.command(help="Say what SRC is: layout, model, parameters, where every byte belongs.")
@click.argument("source", metavar="SRC")
@click.option("--tensors", is_flag=True, help="List every tensor with its shape and sources.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object, tensors included.")
def command(source: str, tensors: bool, as_json: bool) -> None:
    checkpoint = open_checkpoint(source)
    if as_json:
        click.echo(json.dumps(describe(checkpoint), indent=2))
        return
    for line in summary(checkpoint):
        click.echo(line)
    if tensors:
        for tensor in checkpoint.index.values():
            files = {piece.path for chunk in tensor.chunks for piece in chunk.ref.ranges}
            shape = " x ".join(map(str, tensor.shape))
            click.echo(f"  {tensor.name:<56} {tensor.dtype.name}  {shape:<16} {len(files)} files")


def summary(checkpoint: Checkpoint) -> list[str]:
    """A few lines for people."""
    layout, config, index = checkpoint.layout, checkpoint.config, checkpoint.index
    ledger = index.ledger
    weights = [index[name] for name in weight_names(index)]
    norm = "pre-norm" if config.pre_norm else "post-norm"
    return [
        f"layout      {layout.kind}: {layout.tp_size} tensor-parallel x {layout.fsdp_size} FSDP, "
        f"{len(layout.files)} files",
        *(f"            {sentence}" for sentence in layout.evidence),
        f"model       OPT, {norm}: {config.num_layers} layers, hidden {config.hidden_size}, "
        f"{config.num_heads} heads, ffn {config.ffn_dim}, vocabulary {config.vocab_size}, "
        f"{config.max_positions} positions",
        f"parameters  {sum(weight.num_elements for weight in weights):,} in {len(weights)} tensors "
        f"({', '.join(sorted({weight.dtype.name for weight in weights}))})",
        f"weights     {format_bytes(ledger.unique_bytes)} of {format_bytes(ledger.stored_bytes)} "
        f"stored; the rest is {ledger.replica_bytes:,} bytes of copies and "
        f"{ledger.padding_bytes:,} of padding",
        f"tokenizer   {', '.join(checkpoint.companions) or 'no files beside the weights'}",
    ]


def describe(checkpoint: Checkpoint) -> dict[str, Any]:
    """The same, and every tensor, for programs."""
    layout, config, ledger = checkpoint.layout, checkpoint.config, checkpoint.index.ledger
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
        "tensors": [
            {"name": tensor.name, "dtype": tensor.dtype.name, "shape": list(tensor.shape)}
            for tensor in checkpoint.index.values()
        ],
    }
