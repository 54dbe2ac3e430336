"""`unshard serve SRC`."""

from __future__ import annotations

import time

import click

from unshard.cli.display import progress
from unshard.dtypes import parse_dtype
from unshard.engine.engine_thread import EngineThread
from unshard.engine.load import DEFAULT_MAX_BATCH, load_engine
from unshard.index.build import open_checkpoint
from unshard.server.run import bind, run, url_of
from unshard.server.served import ServedModel

DEFAULT_PORT = 6010
"""The port of the original API."""


@click.command(
    help="Serve SRC, in any layout, as OpenAI's completions API. Ctrl-C or SIGTERM ends it: "
    "running requests get a few seconds, then an answer that says why they were ended."
)
@click.argument("source", metavar="SRC")
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=DEFAULT_PORT,
    show_default=True,
    help="0 takes a free one.",
)
@click.option(
    "--dtype",
    type=click.Choice(["fp32", "bf16", "fp16"]),
    default="fp32",
    show_default=True,
    help="What to compute in.",
)
@click.option("--device", default="cpu", show_default=True, help="cpu, cuda or cuda:N.")
@click.option(
    "--max-batch",
    type=click.IntRange(1),
    default=DEFAULT_MAX_BATCH,
    show_default=True,
    help="Sequences to run at once; others wait.",
)
@click.option("--model-name", help="The name clients ask for.  [default: the folder's name]")
def command(
    source: str,
    host: str,
    port: int,
    dtype: str,
    device: str,
    max_batch: int,
    model_name: str | None,
) -> None:
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
