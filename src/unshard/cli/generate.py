"""`unshard generate SRC PROMPT`."""

from __future__ import annotations

import secrets
import sys
import time
from collections.abc import Iterator

import click

from unshard.cli.display import progress
from unshard.dtypes import parse_dtype
from unshard.engine.engine import Engine
from unshard.engine.load import load_engine
from unshard.engine.request import GenerationRequest, SamplingParams
from unshard.errors import UsageError
from unshard.index.build import open_checkpoint


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
    "--dtype", type=click.Choice(["fp32", "bf16", "fp16"]), default="fp32", show_default=True
)
@click.option("--device", default="cpu", show_default=True, help="cpu, cuda or cuda:N.")
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
) -> None:
    text = sys.stdin.read() if prompt == "-" else prompt
    if any(not each for each in stop):
        raise UsageError("--stop is empty", hint="leave it away, or give the text to stop at")
    checkpoint = open_checkpoint(source)
    with progress() as reporter:
        engine = load_engine(
            checkpoint,
            dtype=parse_dtype(dtype),
            device=device,
            max_batch=choices,
            progress=reporter,
        )
    params = SamplingParams(
        max_tokens=max_tokens,
        temperature=temperature,
        top_p=top_p,
        stop=stop,
        seed=secrets.randbits(32) if seed is None else seed,
    )
    prompt_ids = engine.tokenizer.prompt_ids(text)
    for choice in range(choices):
        engine.add(GenerationRequest(str(choice), prompt_ids, params, choice))
    started, count = time.perf_counter(), 0
    if choices == 1:
        click.echo(text, nl=False)
    texts = [""] * choices
    for choice, piece, num_tokens in _steps(engine):
        texts[choice] += piece
        count += num_tokens
        if choices == 1:
            click.echo(piece, nl=False)
            sys.stdout.flush()
    click.echo(
        "" if choices == 1 else "\n".join(f"--- {i}\n{text}{t}" for i, t in enumerate(texts))
    )
    elapsed_s = time.perf_counter() - started
    click.echo(
        f"{count} tokens in {elapsed_s:.2f} s ({count / elapsed_s:.0f}/s), seed {params.seed}",
        err=True,
    )


def _steps(engine: Engine) -> Iterator[tuple[int, str, int]]:
    """Choice, new text and number of new tokens, until every request is finished."""
    while engine.has_work:
        for output in engine.step():
            if output.error is not None:
                raise output.error
            yield int(output.request_id), output.text, len(output.tokens)
