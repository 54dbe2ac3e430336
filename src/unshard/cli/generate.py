"""`unshard generate SRC PROMPT`."""

from __future__ import annotations

import sys

import click

from unshard.cli.deferred import deferred
from unshard.cli.rank_option import tp_option
from unshard.errors import UsageError

generate = deferred("unshard.cli.generation", "generate")


@click.command(
    help="Continue PROMPT (`-` reads it from stdin) with the model SRC, in any layout. The text "
    "goes to stdout as it is written, the rate to stderr."
)
@click.argument("source", metavar="SRC")
@click.argument("prompt", metavar="PROMPT")
@click.option("--max-tokens", type=click.IntRange(1), default=64, show_default=True)
@click.option(
    "--temperature",
    type=click.FloatRange(0, 2),
    default=1.0,
    show_default=True,
    help="0 is greedy: the best token each time.",
)
@click.option("--top-p", type=click.FloatRange(0, 1, min_open=True), default=1.0, show_default=True)
@click.option("--seed", type=int, help="Same seed, same text.  [default: a new one each time]")
@click.option("--stop", multiple=True, help="End before this text. May be given several times.")
@click.option("-n", "choices", type=click.IntRange(1, 64), default=1, show_default=True)
@click.option(
    "--dtype",
    type=click.Choice(["fp32", "bf16", "fp16", "int8"]),
    default="fp32",
    show_default=True,
)
@click.option("--device", default="cpu", show_default=True, help="cpu, cuda or cuda:N.")
@tp_option
def command(
    source: str,
    prompt: str,
    max_tokens: int,
    temperature: float,
    top_p: float,
    seed: int | None,
    stop: tuple[str, ...],
    choices: int,
    dtype: str,
    device: str,
    tp: int | None,
) -> None:
    if any(not each for each in stop):
        raise UsageError("--stop is empty", hint="leave it away, or give the text to stop at")
    try:
        text = sys.stdin.read() if prompt == "-" else prompt
        text.encode()
    except UnicodeError:
        raise UsageError("the prompt is not UTF-8 text") from None
    generate(
        source,
        text,
        max_tokens=max_tokens,
        temperature=temperature,
        top_p=top_p,
        seed=seed,
        stop=stop,
        choices=choices,
        dtype=dtype,
        device=device,
        tp=tp,
    )
