"""`unshard demo`."""

from __future__ import annotations

from pathlib import Path

import click

from unshard.cli.output_path import OutputPath
from unshard.library.deferred import deferred

tour = deferred("unshard.cli.tour", "tour", extra="demo")


@click.command(
    help="Runs the real commands on the bundled model, against a store on this machine that "
    "behaves like the CDN: an interrupted download that resumes, verify, inspect, reshard, a "
    "proof that nothing changed, and a server that answers the openai client. Stays up until "
    "Ctrl-C unless --once."
)
@click.option("--once", is_flag=True, help="End after the first completion.")
@click.option("--dir", "folder", type=OutputPath(), help="Keep the files here.")
def command(once: bool, folder: Path | None) -> None:
    tour(folder, once=once)
