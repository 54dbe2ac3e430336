"""`unshard diff A B`."""

from __future__ import annotations

import click

from unshard.architectures.opt import weight_names
from unshard.cli.display import progress
from unshard.errors import IntegrityError
from unshard.execute.diff import diff
from unshard.index.build import open_checkpoint


@click.command(
    help="Compare the weights of A and B bit for bit, whatever their layouts. Exit 3 when they "
    "differ, with a line per tensor."
)
@click.argument("left", metavar="A")
@click.argument("right", metavar="B")
def command(left: str, right: str) -> None:
    first, second = open_checkpoint(left).index, open_checkpoint(right).index
    with progress() as reporter:
        differences = diff(first, second, progress=reporter)
    for difference in differences:
        click.echo(f"{difference.name}: {difference.what}")
    if differences:
        raise IntegrityError(f"{len(differences)} tensors differ between {left} and {right}")
    shared = [first[name] for name in weight_names(first) if name in second]
    parameters = sum(tensor.num_elements for tensor in shared)
    click.echo(f"identical: {len(shared)} tensors, {parameters:,} parameters, bit for bit")
