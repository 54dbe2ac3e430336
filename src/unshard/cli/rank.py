"""A rank that `--tp` started: `python -m unshard.cli.rank`, with what it has to know as JSON.

What ends it early is its only output: one line, for the rank that started it.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click

from unshard.cli.compute_options import ComputeOptions
from unshard.cli.ranks import ModelOptions
from unshard.engine.team import be_led, join
from unshard.errors import UnshardError
from unshard.index.build import open_checkpoint
from unshard.parallel.place import Place, end_with_parent
from unshard.parallel.rendezvous import file_store


def main(told: str) -> int:
    """Runs one rank to its end; its exit code."""
    known = json.loads(told)
    end_with_parent(known["parent"])
    place, (source, compute, *rest) = Place(*known["place"]), known["options"]
    options = ModelOptions(source, ComputeOptions(*compute), *rest)
    try:
        model = options.of(open_checkpoint(options.source))
        store = file_store(Path(known["meeting"]), place.size)
        be_led(model, join(model, place, store, lambda: None))
    except UnshardError as error:
        click.echo(error.message)
        return error.exit_code
    # Whatever it is, rank 0 has to say it: a traceback would be among its own output.
    except Exception as error:  # noqa: BLE001
        click.echo(f"{type(error).__name__}: {error}".split("\n")[0])
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
