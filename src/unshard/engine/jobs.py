"""Many lines of input through one engine: so many at once that its steps are full, so few that
memory is bounded whatever the input's length, and answered in the order of the input."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from typing import Generic, TypeVar

from unshard.engine.engine import Engine
from unshard.engine.request import GenerationOutput, GenerationRequest
from unshard.errors import RequestError, UnshardError, WorkerLostError
from unshard.library.input_lines import InputLine
from unshard.progress import Progress

MOST_JOBS = 4096
"""Lines that may wait for an earlier one to be answered."""


class Job:
    """One line on its way; as it is, one that nothing can be done about but to say its error."""

    def __init__(self, line: InputLine) -> None:
        self.line = line
        self.error: UnshardError | None = line.error

    @property
    def share_done(self) -> float:
        """0 to 1."""
        return 0.0

    def requests(self) -> Iterator[GenerationRequest]:
        """What to ask of the engine; their ids are those of no other line's."""
        return iter(())

    def take(self, output: GenerationOutput) -> None:
        """What the engine says to one of them. A first error ends the job."""
        self.error = self.error or output.error

    def answer(self) -> dict[str, object]:
        """What to say in the end, beside the line's id."""
        error = self.error or UnshardError("nothing was asked")
        return {"error": {"message": error.message, "hint": error.hint}}


J = TypeVar("J", bound=Job)


class _Entry(Generic[J]):
    """A job, the requests it has not made, and how many are not answered."""

    __slots__ = ("job", "num_open", "requests", "told_bytes")

    def __init__(self, job: J) -> None:
        self.job = job
        self.requests: Iterator[GenerationRequest] | None = job.requests()
        """None once it has made all."""
        self.num_open = 0
        self.told_bytes = 0

    @property
    def is_done(self) -> bool:
        return self.requests is None and not self.num_open

    def next_request(self) -> GenerationRequest | None:
        request = None
        if self.requests is not None and self.job.error is None:
            request = next(self.requests, None)
        if request is None:
            self.requests = None
        return request

    def tell(self, progress: Progress) -> None:
        share = 1.0 if self.is_done else self.job.share_done
        num_bytes = int(share * self.job.line.num_bytes)
        progress.advance(num_bytes - self.told_bytes)
        self.told_bytes = num_bytes


def run_jobs(
    engine: Engine, jobs: Iterable[J], progress: Progress, *, most_requests: int
) -> Iterator[J]:
    """`jobs`, each when it and all before it are done. At most `most_requests` are in `engine`
    at once, which has no other work; `progress` advances by the bytes of the lines.

    Raises:
        WorkerLostError: a rank of the engine's group ended.
    """
    feed, entries = iter(jobs), deque[_Entry[J]]()
    owners: dict[str, _Entry[J]] = {}
    ended = False
    while entries or not ended:
        while not ended and len(owners) < most_requests and len(entries) < MOST_JOBS:
            if not entries or entries[-1].requests is None:
                job = next(feed, None)
                if job is None:
                    ended = True
                    break
                entries.append(_Entry(job))
            _ask(engine, entries[-1], owners)
        for output in _step(engine):
            entry = owners[output.request_id]
            entry.job.take(output)
            if output.finished:
                del owners[output.request_id]
                entry.num_open -= 1
                entry.tell(progress)
        while entries and entries[0].is_done:
            entry = entries.popleft()
            entry.tell(progress)
            yield entry.job


def _ask(engine: Engine, entry: _Entry[J], owners: dict[str, _Entry[J]]) -> None:
    """Make the next request of a job, if it has one."""
    request = entry.next_request()
    if request is None:
        return
    try:
        engine.add(request)
    except RequestError as error:
        entry.job.take(GenerationOutput(request.request_id, error=error))
        return
    owners[request.request_id] = entry
    entry.num_open += 1


def _step(engine: Engine) -> list[GenerationOutput]:
    try:
        return engine.step()
    except WorkerLostError:
        raise  # no line is to blame, and none can be answered any more
    except UnshardError as error:
        return engine.fail_step(error)
