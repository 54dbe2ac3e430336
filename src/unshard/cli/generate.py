"""`unshard generate SRC PROMPT`."""

from __future__ import annotations

import sys

import click

from unshard.cli.deferred import deferred
from unshard.engine.request import SamplingParams
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
@click.option(
    "--top-k", type=click.IntRange(0), default=0, help="Only the k best tokens; 0 is all."
)
@click.option(
    "--min-p",
    type=click.FloatRange(0, 1),
    default=0.0,
    help="Only tokens with at least this share of the best one's probability.",
)
@click.option(
    "--repetition-penalty",
    type=click.FloatRange(0.01, 2),
    default=1.0,
    help="Above 1: tokens of the prompt and the text become less likely.",
)
@click.option(
    "--min-tokens", type=click.IntRange(0), default=0, help="None of the first so many ends it."
)
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
def command(
    source: str,
    prompt: str,
    max_tokens: int,
    temperature: float,
    top_p: float,
    top_k: int,
    min_p: float,
    repetition_penalty: float,
    min_tokens: int,
    seed: int | None,
    stop: tuple[str, ...],
    choices: int,
    dtype: str,
    device: str,
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
        SamplingParams(
            max_tokens,
            temperature,
            top_p,
            stop,
            seed,
            top_k=top_k,
            min_p=min_p,
            repetition_penalty=repetition_penalty,
            min_tokens=min_tokens,
        ),
        choices=choices,
        dtype=dtype,
        device=device,
    )
