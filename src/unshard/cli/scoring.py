"""The work of `unshard score`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

from unshard.cli.compute_options import ComputeOptions
from unshard.cli.display import progress
from unshard.cli.line_work import answer_lines, answers_to, complain_of, past_answers
from unshard.cli.ranks import ModelOptions, engine_of, followed
from unshard.cli.stderr import current
from unshard.engine.documents import (
    MAX_BATCH,
    DocumentJob,
    cache_sequences,
    likelihood_fields,
    likelihood_of,
    window_size,
)
from unshard.engine.likelihood import Likelihood
from unshard.errors import UsageError
from unshard.index.build import open_checkpoint
from unshard.library.answer_lines import TOTAL
from unshard.library.input_lines import Input, InputLine


@dataclass(slots=True)
class _Tally:
    """All answers together."""

    num_lines: int = 0
    num_failed: int = 0
    likelihood: Likelihood = field(default_factory=Likelihood)

    def add(self, answer: Mapping[str, Any]) -> None:
        self.num_lines += 1
        if "error" in answer:
            self.num_failed += 1
        else:
            self.likelihood += likelihood_of(answer)


def score(
    source: str,
    file: str,
    *,
    form: str | None,
    stride: int | None,
    output: str | None,
    compute: ComputeOptions,
) -> None:
    """Writes a line about each document of `file`, and one about all.

    Raises:
        UnshardError: a document could not be scored; the others were.
        UsageError: `stride` is larger than the window, or `output` holds something else.
        WorkerLostError: a rank ended before its time; what is answered is written.
        UsageError, FormatError, CheckpointError: as from opening and loading `source`.
    """
    checkpoint = open_checkpoint(source)
    options = ModelOptions(source, compute, MAX_BATCH, cache_sequences(checkpoint.config))
    if followed(checkpoint, options):
        return
    given = Input.open(file)
    lines = _documents(given, form)
    size = window_size(checkpoint.config)
    stride = _checked_stride(stride, size)
    tally, past_bytes = _Tally(), 0
    with ExitStack() as stack:
        answers = stack.enter_context(answers_to(output, file))
        for line, answer in past_answers(answers, lines, "log_likelihood"):
            tally.add(answer)
            past_bytes += line.num_bytes
        engine, _ = stack.enter_context(engine_of(checkpoint, options))
        reporter = stack.enter_context(progress())
        reporter.start("score", given.num_bytes)
        reporter.advance(past_bytes)

        def job_of(line: InputLine) -> DocumentJob:
            return DocumentJob(line, engine.tokenizer, size, stride)

        most = 2 * MAX_BATCH
        for job in answer_lines(engine, lines, job_of, answers, reporter, most_requests=most):
            tally.add(job.answer())
        how = {"documents": tally.num_lines, "failed": tally.num_failed}
        found = likelihood_fields(tally.likelihood)
        answers.write({TOTAL: {**how, **found, "window": size, "stride": stride}})
    current().note(_summary(tally))
    complain_of(tally.num_failed, tally.num_lines)


def _documents(given: Input, form: str | None) -> Iterator[InputLine]:
    if form is None:
        form = "jsonl" if given.name.endswith(".jsonl") else "lines"
    return {"jsonl": given.json_lines, "lines": given.text_lines, "whole": given.whole}[form]()


def _checked_stride(stride: int | None, size: int) -> int:
    if stride is None:
        return (size + 1) // 2
    if stride > size:
        raise UsageError(
            f"--stride {stride} is more than the {size} tokens that the model reads at once",
            hint=f"give one from 1 (exact and slow) to {size} (fast: windows do not overlap)",
        )
    return stride


def _summary(tally: _Tally) -> str:
    found = tally.likelihood
    told = f"{tally.num_lines} documents, {found.num_tokens} tokens"
    if found.perplexity is None or found.bits_per_byte is None:
        return told
    return f"{told}: perplexity {found.perplexity:.4g}, {found.bits_per_byte:.4g} bits per byte"
