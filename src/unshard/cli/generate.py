"""`unshard generate SRC PROMPT`."""

from __future__ import annotations

import sys

import click

from unshard.cli.compute_options import ComputeOptions, compute_options
from unshard.cli.stderr import events_option
from unshard.engine.request import SamplingParams
from unshard.errors import UsageError
from unshard.library.deferred import deferred

generate = deferred("unshard.cli.generation", "generate")
generate_lines = deferred("unshard.cli.line_generation", "generate_lines")

DEFAULT_MAX_BATCH = 32


@click.command(
    help="Continue PROMPT (`-` reads it from stdin) with the model SRC, in any layout. The text "
    "goes to stdout as it is written, the rate to stderr. With --input instead of PROMPT, continue "
    "each prompt of a file, into JSON lines."
)
@click.argument("source", metavar="SRC")
@click.argument("prompt", metavar="[PROMPT]", required=False)
@click.option(
    "--input",
    "lines",
    metavar="PATH",
    help="JSON lines with a `prompt`, and what differs from these options: `max_tokens`, "
    "`temperature`, … (`-`: stdin).",
)
@click.option(
    "--output",
    metavar="PATH",
    help="With --input: write to this file; if an earlier run did, go on where it ended."
    "  [default: stdout]",
)
@click.option(
    "--max-batch",
    type=click.IntRange(1, 1024),
    default=DEFAULT_MAX_BATCH,
    show_default=True,
    help="With --input: prompts to continue at once.",
)
@click.option(
    "--max-tokens",
    type=click.IntRange(1),
    default=64,
    show_default=True,
    help="So many tokens at most, beside the prompt's.",
)
@click.option(
    "--temperature",
    type=click.FloatRange(0, 2),
    default=1.0,
    show_default=True,
    help="0 is greedy: the best token each time.",
)
@click.option(
    "--top-p",
    type=click.FloatRange(0, 1, min_open=True),
    default=1.0,
    show_default=True,
    help="Only the best tokens that it takes to reach this share of the probability.",
)
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
@click.option(
    "--seed", type=int, help="Same seed, same text.  [default: a new one each time; 0 with --input]"
)
@click.option("--stop", multiple=True, help="End before this text. May be given several times.")
@click.option(
    "-n",
    "choices",
    type=click.IntRange(1, 64),
    default=1,
    show_default=True,
    help="So many continuations.",
)
@compute_options
@events_option
def command(
    source: str,
    prompt: str | None,
    lines: str | None,
    output: str | None,
    max_batch: int,
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
    compute: ComputeOptions,
) -> None:
    if any(not each for each in stop):
        raise UsageError("--stop is empty", hint="leave it away, or give the text to stop at")
    params = SamplingParams(
        max_tokens,
        temperature,
        top_p,
        stop,
        seed,
        top_k=top_k,
        min_p=min_p,
        repetition_penalty=repetition_penalty,
        min_tokens=min_tokens,
    )
    if prompt is not None and lines is None:
        if output is not None:
            raise UsageError("--output goes with --input", hint="redirect stdout: > PATH")
        generate(source, _text(prompt), params, choices=choices, compute=compute)
        return
    if prompt is not None or lines is None:
        raise UsageError(
            "it takes either PROMPT or --input",
            hint="quote the prompt, or give `-` to read it from stdin",
        )
    if choices > 1:
        raise UsageError(
            "-n does not go with --input",
            hint="give a line for each continuation, with a `seed` of its own",
        )
    generate_lines(source, lines, output, params, max_batch=max_batch, compute=compute)


def _text(prompt: str) -> str:
    try:
        text = sys.stdin.read() if prompt == "-" else prompt
        text.encode()
    except UnicodeError:
        raise UsageError("the prompt is not UTF-8 text") from None
    return text
