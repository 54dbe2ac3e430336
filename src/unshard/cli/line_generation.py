"""The work of `unshard generate SRC --input FILE`."""

from __future__ import annotations

import time
from contextlib import ExitStack

from unshard.cli.compute_options import ComputeOptions
from unshard.cli.display import progress
from unshard.cli.line_work import answer_lines, answers_to, complain_of, past_answers
from unshard.cli.ranks import ModelOptions, engine_of, followed
from unshard.cli.stderr import current
from unshard.engine.prompts import PromptJob
from unshard.engine.request import SamplingParams
from unshard.index.build import open_checkpoint
from unshard.library.input_lines import Input, InputLine

REQUESTS_PER_PLACE = 4
"""Requests in the engine for each that runs: a prompt is there whenever another ends."""


def generate_lines(
    source: str,
    file: str,
    output: str | None,
    defaults: SamplingParams,
    *,
    max_batch: int,
    compute: ComputeOptions,
) -> None:
    """Writes a line about each prompt of `file`, in its order, continued as `defaults` say where
    its line does not.

    Raises:
        UnshardError: a prompt could not be continued; the others were.
        UsageError: `output` holds something else.
        WorkerLostError: a rank ended before its time; what is answered is written.
        UsageError, FormatError, CheckpointError: as from opening and loading `source`.
    """
    checkpoint = open_checkpoint(source)
    options = ModelOptions(source, compute, max_batch)
    if followed(checkpoint, options):
        return
    given = Input.open(file)
    lines = given.json_lines()
    num_lines = num_failed = past_bytes = 0
    with ExitStack() as stack:
        answers = stack.enter_context(answers_to(output, file))
        for line, past in past_answers(answers, lines, "text"):
            num_lines += 1
            num_failed += "error" in past
            past_bytes += line.num_bytes
        engine, _ = stack.enter_context(engine_of(checkpoint, options))
        reporter = stack.enter_context(progress())
        reporter.start("generate", given.num_bytes)
        reporter.advance(past_bytes)

        def job_of(line: InputLine) -> PromptJob:
            return PromptJob(line, engine.tokenizer, defaults)

        num_tokens, started = 0, time.perf_counter()
        most = REQUESTS_PER_PLACE * max_batch
        for job in answer_lines(engine, lines, job_of, answers, reporter, most_requests=most):
            num_lines += 1
            num_failed += job.error is not None
            num_tokens += job.num_tokens
        elapsed_s = time.perf_counter() - started
    current().note(f"{num_lines} prompts; {num_tokens} tokens in {elapsed_s:.2f} s")
    complain_of(num_failed, num_lines)
