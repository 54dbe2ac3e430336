"""Random requests, cancels and preemptions, as long as one likes: nothing is lost or grows.

`UNSHARD_SOAK_SECONDS=600 pytest -m slow -n 0 -s tests/engine/test_soak.py` is the whole of it; the
suite soaks for some seconds.
"""

import os
import random
import sys
import time
from pathlib import Path
from statistics import linear_regression, median

import pytest
from tests.engine.test_batching import (  # noqa: F401 - fixtures
    alone,
    assert_same,
    prompt,
    small_steps,
)

from unshard.engine.request import GenerationRequest, SamplingParams
from unshard.kernels.attention import PagedAttention
from unshard.kernels.library import kernels

SECONDS = float(os.environ.get("UNSHARD_SOAK_SECONDS", "5"))
MOST_GROWTH = 16_000_000
"""Bytes by which allocators may still settle after the first quarter."""
STEP_TOKENS = 40
MOST_AT_ONCE = 24
STEPS_PER_SAMPLE = 50


def resident_bytes():
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


class Visitors:
    """Clients that ask for the same things again and again, and some of whom lose patience."""

    def __init__(self, engine, wanted, rng):
        self._engine, self._wanted, self._rng = engine, wanted, rng
        self._present = {}
        self._num_come = 0
        self.num_finished = self.num_whole = self.num_cancelled = 0

    def come(self):
        for _ in range(self._rng.choice([0, 0, 1, 3])):
            if len(self._present) == MOST_AT_ONCE:
                return
            which = self._rng.randrange(len(self._wanted))
            prompt_ids, params, _ = self._wanted[which]
            self._num_come += 1
            name = str(self._num_come)
            self._engine.add(GenerationRequest(name, prompt_ids, params))
            self._present[name] = which, []

    def lose_patience(self):
        if self._present and self._rng.random() < 0.05:
            name = self._rng.choice(list(self._present))
            del self._present[name]
            self._engine.cancel(name)
            self.num_cancelled += 1

    def take(self, outputs):
        for output in outputs:
            assert output.error is None
            which, taken = self._present[output.request_id]
            taken.append(output)
            if output.finished:
                del self._present[output.request_id]
                self.num_finished += 1
                _, params, alone = self._wanted[which]
                if params.temperature == 0:
                    self.num_whole += assert_same(taken, alone)


@pytest.mark.slow
@pytest.mark.timeout(2 * SECONDS + 120)
def test_soak(make_engine, alone, run, small_steps):  # noqa: F811 - fixtures
    rng = random.Random(11)
    small_steps(STEP_TOKENS)
    kernel = None if kernels() is None else PagedAttention
    wanted = []
    for number in range(40):
        params = SamplingParams(
            rng.randint(1, 90), rng.choice([0, 0, 0, 0.9]), seed=number, logprobs=2
        )
        request = GenerationRequest("", prompt(rng.randint(1, 60), seed=number % 30), params)
        wanted.append((request.prompt_ids, params, alone(request)))
    # oneDNN keeps the code that it makes for each number of rows.
    for number in range(1, STEP_TOKENS + 1):
        run(make_engine(1), [GenerationRequest("", prompt(number), SamplingParams(2, 0))])
    engine = make_engine(8, num_blocks=20, kernel=kernel)
    visitors = Visitors(engine, wanted, rng)
    samples, end = [], time.monotonic() + SECONDS
    while (now := time.monotonic()) < end:
        visitors.come()
        visitors.lose_patience()
        visitors.take(engine.step())
        if engine.statistics().num_steps % STEPS_PER_SAMPLE == 0:
            samples.append((now, resident_bytes()))
    while engine.has_work:
        visitors.take(engine.step())

    statistics = engine.statistics()
    use = statistics.cache
    settled = samples[len(samples) // 4 :]
    slope = linear_regression(*zip(*settled, strict=True)).slope * 60 / 1e6
    sys.stdout.write(
        f"\n{SECONDS:.0f} s: {visitors.num_finished} requests finished, {visitors.num_whole} "
        f"greedy ones whole and equal, {visitors.num_cancelled} cancelled; "
        f"{statistics.num_preempted} preemptions in {statistics.num_steps} steps, hit rate "
        f"{use.num_shared_tokens / use.num_started_tokens:.2f}; resident "
        f"{settled[0][1] / 1e6:.1f} -> {settled[-1][1] / 1e6:.1f} MB, {slope:+.2f} MB a minute\n"
    )
    assert use.num_held == 0
    assert (statistics.num_running, statistics.num_waiting) == (0, 0)
    assert visitors.num_cancelled
    assert statistics.num_preempted
    # A text may part from the one alone at a tie; nearly none does.
    assert visitors.num_whole > visitors.num_finished / 2
    third = len(settled) // 3
    before, after = (
        median(size for _, size in part) for part in (settled[:third], settled[-third:])
    )
    assert after - before < MOST_GROWTH
