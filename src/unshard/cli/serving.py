"""A server on the terminal: the work of `unshard serve`."""

from __future__ import annotations

import os
import signal
import time
from ipaddress import ip_address

import click

from unshard.cli.chat_template_option import template_text
from unshard.cli.compute_options import ComputeOptions
from unshard.cli.ranks import ModelOptions, engine_of, followed
from unshard.cli.stderr import current
from unshard.engine.engine_thread import EngineThread
from unshard.index.build import open_checkpoint
from unshard.server.chat_template import ChatTemplate
from unshard.server.manners import Manners
from unshard.server.run import bind, run, url_of
from unshard.server.served import ServedModel


def serve(
    source: str,
    *,
    host: str,
    port: int,
    compute: ComputeOptions,
    max_batch: int,
    model_name: str | None,
    chat_template: str | None,
    manners: Manners,
) -> None:
    """Serves `source` until a signal ends it; says on stderr when it is ready.

    Raises:
        UnshardError: the port is taken.
        UsageError: `chat_template` is none.
        WorkerLostError, EngineLostError: a rank, or the engine, ended before its time.
        UsageError, FormatError, CheckpointError: as from opening and loading `source`.
    """
    template = None if chat_template is None else ChatTemplate(template_text(chat_template))
    checkpoint = open_checkpoint(source)
    options = ModelOptions(source, compute, max_batch)
    if followed(checkpoint, options):
        return
    name = model_name or checkpoint.folder.resolve().name
    # Bound before the weights are read: a taken port is said now and not in ten minutes.
    with bind(host, port) as bound, engine_of(checkpoint, options) as (engine, workers):
        url = url_of(bound)
        thread, stderr = EngineThread(engine, on_stuck=workers.kill), current()
        served = ServedModel(name, thread, engine.tokenizer, int(time.time()), template)

        def end() -> None:
            os.kill(os.getpid(), signal.SIGTERM)

        def say_ready() -> None:
            click.echo(f"serving {name} on {url} (Ctrl-C ends it)", err=True)
            if not (manners.api_keys or ip_address(bound.getsockname()[0]).is_loopback):
                stderr.note("whoever reaches this port may use it: --api-key-file asks for a key")
            workers.on_loss(end)  # now the server hears of signals

        def say_drain(num_open: int) -> None:
            stderr.note(
                f"ending: open requests ({num_open}) have {manners.drain_seconds:g} s to finish; "
                "Ctrl-C again ends now"
            )

        run(served, bound, on_ready=say_ready, on_drain=say_drain, manners=manners)
        workers.check()
        thread.check()
