"""What the server counts, and `/metrics`."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator

from fastapi import APIRouter
from starlette.responses import Response

from unshard.engine.request import GenerationOutput, GenerationRequest
from unshard.engine.statistics import EngineStatistics
from unshard.server.exposition import CONTENT_TYPE, Histogram, family
from unshard.server.visit import current_visit

FIRST_TOKEN_BOUNDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
BETWEEN_TOKENS_BOUNDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
"""Seconds: from a small model on a GPU to a large one on a CPU."""


class Metrics:
    """Counts since the start. Belongs to one event loop."""

    def __init__(self) -> None:
        self._answers: Counter[tuple[str, str, str]] = Counter()
        self.num_open = 0
        """Requests without their whole answer."""
        self._prompt_tokens = self._generated_tokens = 0
        self._first_token = Histogram(FIRST_TOKEN_BOUNDS)
        self._between_tokens = Histogram(BETWEEN_TOKENS_BOUNDS)

    def arrived(self) -> None:
        """A request is there."""
        self.num_open += 1

    def answered(self, method: str, route: str, status: int) -> None:
        """A request that `arrived` has its whole answer, or its client is gone."""
        self.num_open -= 1
        self._answers[method, route, str(status)] += 1

    def generation(self, request: GenerationRequest) -> GenerationMeter:
        """The meter of `request`, which the engine has now."""
        self._prompt_tokens += len(request.prompt_ids)
        current_visit().prompt_tokens += len(request.prompt_ids)
        return GenerationMeter(self)

    def lines(self, engine: EngineStatistics) -> Iterator[str]:
        """All of them, with those of the engine."""
        answers = [
            ({"method": method, "path": path, "code": code}, count)
            for (method, path, code), count in sorted(self._answers.items())
        ]
        yield from family("unshard_requests_total", "counter", "Requests answered.", answers)
        yield from _gauge("requests_open", "Requests without their whole answer.", self.num_open)
        yield from _counter("prompt_tokens", "Tokens of prompts taken in.", self._prompt_tokens)
        yield from _counter("generated_tokens", "Tokens generated.", self._generated_tokens)
        yield from self._first_token.lines(
            "unshard_first_token_seconds", "From a generation's arrival to its first token."
        )
        yield from self._between_tokens.lines(
            "unshard_between_tokens_seconds", "From a token of a generation to its next."
        )
        yield from _engine_lines(engine)

    def count_tokens(self, number: int, seconds: float, *, first: bool) -> None:
        """`number` tokens of one generation came `seconds` after what was before them."""
        self._generated_tokens += number
        current_visit().generated_tokens += number
        if first:
            self._first_token.observe(seconds)
            return
        for _ in range(number):
            self._between_tokens.observe(seconds / number)


class GenerationMeter:
    """Times one generation."""

    __slots__ = ("_is_first", "_last", "_metrics", "_time")

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._time = asyncio.get_running_loop().time
        self._last = self._time()
        self._is_first = True

    def came(self, output: GenerationOutput) -> None:
        """`output` is here now."""
        if not output.tokens:
            return
        now = self._time()
        self._metrics.count_tokens(len(output.tokens), now - self._last, first=self._is_first)
        self._last, self._is_first = now, False


def metrics_router(metrics: Metrics, statistics: Callable[[], EngineStatistics]) -> APIRouter:
    """`GET /metrics`."""
    router = APIRouter()

    @router.get("/metrics", response_class=_MetricsResponse)
    async def read() -> Response:
        """Prometheus' text format."""
        return _MetricsResponse("".join(metrics.lines(statistics())))

    return router


class _MetricsResponse(Response):
    media_type = CONTENT_TYPE


def _engine_lines(engine: EngineStatistics) -> Iterator[str]:
    cache = engine.cache
    yield from _gauge("generations_running", "Generations that hold blocks.", engine.num_running)
    yield from _gauge("generations_waiting", "Generations that wait.", engine.num_waiting)
    yield from _gauge("batch_size", "Generations that the last step advanced.", engine.batch_size)
    yield from _counter("steps", "Steps of the engine.", engine.num_steps)
    yield from _counter("step_tokens", "Tokens computed by all steps.", engine.num_step_tokens)
    yield from _counter("preemptions", "Generations started again.", engine.num_preempted)
    blocks = [({"state": "used"}, cache.num_held), ({"state": "free"}, cache.num_free)]
    yield from family("unshard_cache_blocks", "gauge", "Blocks of the cache.", blocks)
    tokens = [
        ({"found": "yes"}, cache.num_shared_tokens),
        ({"found": "no"}, cache.num_missed_tokens),
    ]
    yield from family(
        "unshard_cache_tokens_total", "counter", "Tokens looked up in the cache.", tokens
    )


def _gauge(name: str, text: str, value: float) -> Iterator[str]:
    return family(f"unshard_{name}", "gauge", text, [({}, value)])


def _counter(name: str, text: str, value: float) -> Iterator[str]:
    return family(f"unshard_{name}_total", "counter", text, [({}, value)])
