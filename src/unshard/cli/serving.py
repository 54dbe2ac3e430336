"""A server on the terminal: the work of `unshard serve`."""

from __future__ import annotations

import time

import click

from unshard.cli.display import progress
from unshard.dtypes import parse_dtype
from unshard.engine.engine_thread import EngineThread
from unshard.engine.load import load_engine
from unshard.index.build import open_checkpoint
from unshard.server.run import bind, run, url_of
from unshard.server.served import ServedModel


def serve(
    source: str,
    *,
    host: str,
    port: int,
    dtype: str,
    device: str,
    max_batch: int,
    model_name: str | None,
) -> None:
    """Serves `source` until a signal ends it; says on stderr when it is ready.

    Raises:
        UnshardError: the port is taken.
        UsageError, FormatError, CheckpointError: as from opening and loading `source`.
    """
    checkpoint = open_checkpoint(source)
    name = model_name or checkpoint.folder.resolve().name
    # Bound before the weights are read: a taken port is said now and not in ten minutes.
    with bind(host, port) as bound:
        with progress() as reporter:
            engine = load_engine(
                checkpoint,
                dtype=parse_dtype(dtype),
                device=device,
                max_batch=max_batch,
                progress=reporter,
            )
        url = url_of(bound)
        served = ServedModel(name, EngineThread(engine), engine.tokenizer, int(time.time()))

        def say_ready() -> None:
            click.echo(f"serving {name} on {url} (Ctrl-C ends it)", err=True)

        run(served, bound, on_ready=say_ready)
