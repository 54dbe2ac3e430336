"""`unshard fingerprint SRC`."""

from __future__ import annotations

import json

import click

from unshard.cli.display import progress
from unshard.execute.fingerprint import VERSION, fingerprint
from unshard.index.build import open_checkpoint


@click.command(
    help="Digest the weights of SRC. The same weights have the same fingerprint in every layout, "
    "whatever wrote the files; md5s of the files do not."
)
@click.argument("source", metavar="SRC")
@click.option("--tensors", is_flag=True, help="Also print the digest of every tensor.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object, tensors included.")
def command(source: str, tensors: bool, as_json: bool) -> None:
    checkpoint = open_checkpoint(source)
    with progress() as reporter:
        found = fingerprint(checkpoint.index, progress=reporter)
    if as_json:
        click.echo(
            json.dumps({"version": VERSION, "model": found.model, "tensors": dict(found.tensors)})
        )
        return
    click.echo(found.model)
    if tensors:
        for name, digest in found.tensors.items():
            click.echo(f"{digest}  {name}")
