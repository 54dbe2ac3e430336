"""`unshard serve SRC`."""

from __future__ import annotations

from typing import Any

import click

from unshard.cli.compute_options import ComputeOptions, compute_options
from unshard.cli.manners_options import chosen_manners, manners_options
from unshard.errors import UsageError
from unshard.library.deferred import deferred

serve = deferred("unshard.cli.serving", "serve")
serve_with_vllm = deferred("unshard.cli.vllm_serving", "serve_with_vllm")

DEFAULT_PORT = 6010
"""The port of the original API."""
DEFAULT_MAX_BATCH = 8


@click.command(
    help="Serve SRC, in any layout: OpenAI's completions and chat, vLLM's /tokenize, the "
    "original's API, and at / a playground for browsers. Nobody is asked for a key unless one is "
    "given. Ctrl-C or SIGTERM ends it: running requests get --drain-seconds, then an answer that "
    "says why they were ended.",
    context_settings={"ignore_unknown_options": True},
)
@click.argument("source", metavar="SRC")
@click.argument("flags", nargs=-1, type=click.UNPROCESSED, metavar="[VLLM FLAGS]")
@click.option(
    "--engine",
    type=click.Choice(["unshard", "vllm"]),
    default="unshard",
    show_default=True,
    help="vllm becomes vLLM's server, which reads SRC as it is; its own flags follow SRC.",
)
@click.option(
    "--host",
    default="127.0.0.1",
    show_default=True,
    help="Whose connections to take: 127.0.0.1 is this machine alone, 0.0.0.0 every network.",
)
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=DEFAULT_PORT,
    show_default=True,
    help="0 takes a free one.",
)
@compute_options
@click.option(
    "--max-batch",
    type=click.IntRange(1, 1024),
    default=DEFAULT_MAX_BATCH,
    show_default=True,
    help="Sequences to run at once; others wait.",
)
@click.option("--model-name", help="The name clients ask for.  [default: the folder's name]")
@click.option(
    "--chat-template",
    metavar="FILE|TEXT",
    help="Jinja that makes a text of messages, for /v1/chat/completions.",
)
@manners_options
@click.pass_context
def command(
    ctx: click.Context,
    /,
    source: str,
    flags: tuple[str, ...],
    engine: str,
    host: str,
    port: int,
    compute: ComputeOptions,
    max_batch: int,
    model_name: str | None,
    chat_template: str | None,
    **manners: Any,
) -> None:
    if not host:
        raise UsageError("--host is empty", hint="127.0.0.1 is this machine alone")
    if engine == "vllm" and not source.startswith("-"):
        serve_with_vllm(
            source, _given(ctx) | {"host": host, "port": port, "dtype": compute.dtype}, flags
        )
        return
    _refuse_unknown(ctx, source, *flags)
    serve(
        source,
        host=host,
        port=port,
        compute=compute,
        max_batch=max_batch,
        model_name=model_name,
        chat_template=chat_template,
        manners=chosen_manners(**manners),
    )


def _given(ctx: click.Context) -> dict[str, object]:
    """The options that the command line names."""
    return {
        name: value
        for name, value in ctx.params.items()
        if name not in {"source", "flags", "engine"}
        and ctx.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE
    }


def _refuse_unknown(ctx: click.Context, *arguments: str) -> None:
    """As click does it where no option may be another program's."""
    options = [option for parameter in ctx.command.params for option in parameter.opts]
    for argument in arguments:
        if argument.startswith("-"):
            name = argument.split("=")[0]
            raise click.NoSuchOption(name, possibilities=options, ctx=ctx)
    if arguments[1:]:
        raise click.UsageError(f"Got unexpected extra argument ({arguments[1]})", ctx)
