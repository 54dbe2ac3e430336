"""A file of lines through a model, and the answers out: what scoring and generating share."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from unshard.cli.output_path import output_path
from unshard.engine.engine import Engine
from unshard.engine.jobs import J, run_jobs
from unshard.errors import UnshardError, UsageError
from unshard.library.answer_lines import AnswerLines, answers_in
from unshard.library.input_lines import InputLine
from unshard.progress import Progress


@contextmanager
def answers_to(output: str | None, given: str) -> Iterator[AnswerLines]:
    """The file `output`, or stdout, for answers to the lines of the file `given` ("-" is stdin).

    Raises:
        UsageError: it is a link, or the file that the lines come from.
    """
    if output is None:
        yield AnswerLines("stdout", sys.stdout.buffer)
        return
    path = output_path(output)
    if given != "-" and path.exists() and path.samefile(given):
        raise UsageError(
            f"{output}: is the input, and would be the output too",
            hint="give --output another name",
        )
    with answers_in(path) as answers:
        yield answers


def past_answers(
    answers: AnswerLines, lines: Iterator[InputLine], field: str
) -> Iterator[tuple[InputLine, dict[str, Any]]]:
    """The first of `lines`, and what earlier runs answered; each has `field` or an error.

    Raises:
        UsageError: they are answers to other lines.
        FormatError: they are no such answers.
    """
    for number, answer in enumerate(answers.kept(), 1):
        line = next(lines, None)
        if line is None or answer["id"] != line.id or not {field, "error"} & answer.keys():
            found = "there is no such line" if line is None else f"the input has {line.id!r} there"
            raise UsageError(
                f"--output holds other answers: its line {number} is that of"
                f" {answer['id']!r}, and {found}",
                hint="give --output another name, or remove the file",
            )
        yield line, answer


def answer_lines(
    engine: Engine,
    lines: Iterator[InputLine],
    job_of: Callable[[InputLine], J],
    answers: AnswerLines,
    progress: Progress,
    *,
    most_requests: int,
) -> Iterator[J]:
    """The jobs of `lines` in order, each once its answer is written."""
    jobs = map(job_of, lines)
    for job in run_jobs(engine, jobs, progress, most_requests=most_requests):
        answers.write({"id": job.line.id, **job.answer()})
        yield job


def complain_of(num_failed: int, num_lines: int) -> None:
    """The end of a run that could not do all.

    Raises:
        UnshardError: `num_failed` lines were answered by an error.
    """
    if num_failed:
        raise UnshardError(
            f"{num_failed} of {num_lines} lines failed",
            hint="their answers have an `error` that says why; the others are done",
        )
