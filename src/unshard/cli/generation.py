"""Generation on the terminal: the work of `unshard generate`."""

from __future__ import annotations

import secrets
import sys
import time
from collections.abc import Iterator
from dataclasses import replace

import click

from unshard.cli.compute_options import ComputeOptions
from unshard.cli.ranks import ModelOptions, engine_of, followed
from unshard.cli.stderr import current
from unshard.engine.engine import Engine
from unshard.engine.request import GenerationRequest, SamplingParams
from unshard.index.build import open_checkpoint


def generate(
    source: str,
    prompt: str,
    params: SamplingParams,
    *,
    choices: int,
    compute: ComputeOptions,
) -> None:
    """Prints `choices` continuations of `prompt`; a single one as it is written. Without a seed
    `params` get one, which is told.

    Raises:
        RequestError: the prompt and its continuation do not fit the context, or `params` ask
            for what cannot be.
        UsageError, FormatError, CheckpointError: as from opening and loading `source`.
    """
    checkpoint = open_checkpoint(source)
    options = ModelOptions(source, compute, choices)
    if followed(checkpoint, options):
        return
    if params.seed is None:
        params = replace(params, seed=secrets.randbits(32))
    with engine_of(checkpoint, options) as (engine, _):
        prompt_ids = engine.tokenizer.prompt_ids(prompt)
        for choice in range(choices):
            engine.add(GenerationRequest(str(choice), prompt_ids, params, choice))
        started = time.perf_counter()
        count = _print_one(engine, prompt) if choices == 1 else _print_all(engine, prompt, choices)
        elapsed_s = time.perf_counter() - started
    current().note(
        f"{count} tokens in {elapsed_s:.2f} s ({count / elapsed_s:.0f}/s), seed {params.seed}"
    )


def _print_one(engine: Engine, prompt: str) -> int:
    """Prints a continuation as it is written; the number of its tokens."""
    click.echo(prompt, nl=False)
    count = 0
    for _, piece, num_tokens in _steps(engine):
        click.echo(piece, nl=False)
        sys.stdout.flush()
        count += num_tokens
    click.echo()
    return count


def _print_all(engine: Engine, prompt: str, choices: int) -> int:
    """Prints all continuations one after the other; the number of their tokens."""
    texts, count = [""] * choices, 0
    for choice, piece, num_tokens in _steps(engine):
        texts[choice] += piece
        count += num_tokens
    for number, text in enumerate(texts):
        click.echo(f"--- {number}\n{prompt}{text}")
    return count


def _steps(engine: Engine) -> Iterator[tuple[int, str, int]]:
    """Choice, new text and number of new tokens, until every request is finished."""
    while engine.has_work:
        for output in engine.step():
            if output.error is not None:
                raise output.error
            yield int(output.request_id), output.text, len(output.tokens)
