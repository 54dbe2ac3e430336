"""Laws of running many at once: nothing that a request's neighbours do is seen in its text.

Matrix products round differently for other numbers of rows, by some 1e-6 of a logit's size. A
greedy text may therefore part from the same text computed alone, but only at a tie: where the two
best logits are nearer to each other than `TIE`.
"""

import random

import pytest
from tests.engine.paged_by_torch import paged_kernel

from unshard.engine import scheduler
from unshard.engine.request import (
    FactualNucleus,
    GenerationRequest,
    SamplingParams,
    SourcePenalties,
)
from unshard.errors import UnshardError

TIE = 1e-3
GREEDY = SamplingParams(max_tokens=24, temperature=0, logprobs=2)


def prompt(length, seed=0):
    rng = random.Random(seed)
    return (2, *(rng.randrange(4, 1000) for _ in range(length - 1)))


def tokens_of(outputs):
    return [token for output in outputs for token in output.tokens]


def ids(outputs):
    return [token.token_id for token in tokens_of(outputs)]


def is_tie(token):
    (_, best), (_, second) = token.alternatives
    return best - second < TIE


def assert_same(found, wanted):
    """Token for token, up to a tie; whether it was the whole text."""
    found, wanted = tokens_of(found), tokens_of(wanted)
    for ours, theirs in zip(found, wanted, strict=False):
        if ours.token_id != theirs.token_id:
            assert is_tie(theirs)
            return False
        assert ours.logprob == pytest.approx(theirs.logprob, abs=1e-4)
    assert len(found) == len(wanted)
    return True


@pytest.fixture
def alone(make_engine, run):
    """The outputs of a request in an engine of its own, its prompt read in one step and no past
    of it kept apart from its blocks."""

    def alone(request):
        engine = make_engine(1)
        engine._runner._lone = None
        return run(engine, [request])[request.request_id]

    return alone


@pytest.fixture
def small_steps(monkeypatch):
    """Prompts are read `tokens` at a time, whether or not others decode."""

    def small_steps(tokens):
        monkeypatch.setattr(scheduler, "STEP_TOKENS", tokens)
        monkeypatch.setattr(scheduler, "SHARED_STEP_TOKENS", tokens)

    return small_steps


def requests_of(rng, number, longest_prompt, params_of):
    return [
        GenerationRequest(
            f"r{i}", prompt(rng.randint(1, longest_prompt), seed=rng.random()), params_of(i)
        )
        for i in range(number)
    ]


def run_like_a_server(engine, requests, rng, cancelled=()):
    """Requests come by and by, some are cancelled after some of their tokens."""
    outputs = {request.request_id: [] for request in requests}
    waiting = list(requests)
    while waiting or engine.has_work:
        for _ in range(min(len(waiting), rng.choice([0, 0, 1, 3]))):
            engine.add(waiting.pop(0))
        for output in engine.step():
            outputs[output.request_id].append(output)
        if cancelled and rng.random() < 0.2:
            engine.cancel(rng.choice(cancelled))
    return outputs


def test_chunks_are_the_whole_prompt(make_engine, run, alone, small_steps):
    requests = [GenerationRequest(str(n), prompt(n, seed=n), GREEDY) for n in (15, 16, 17, 33, 100)]
    wanted = [alone(request) for request in requests]
    for tokens in (1, 16, 23):
        small_steps(tokens)
        for request, whole in zip(requests, wanted, strict=True):
            assert assert_same(alone(request), whole)


def test_chunks_score_the_whole_prompt(alone, small_steps):
    params = SamplingParams(max_tokens=2, temperature=0, logprobs=2, score_prompt=True)
    request = GenerationRequest("a", prompt(90), params)
    whole = alone(request)
    small_steps(17)
    in_chunks = alone(request)
    assert len(whole[0].prompt_tokens) == 90
    for ours, theirs in zip(in_chunks[0].prompt_tokens, whole[0].prompt_tokens, strict=True):
        assert ours.token_id == theirs.token_id
        assert ours.logprob == pytest.approx(theirs.logprob, abs=1e-4)
    assert [output.prompt_tokens for output in in_chunks[1:]] == [None]
    assert_same(in_chunks, whole)


def test_a_long_prompt_does_not_stall_the_others(make_engine, small_steps):
    small_steps(20)
    engine = make_engine(3)
    for name in ("a", "b"):
        engine.add(GenerationRequest(name, prompt(5, seed=ord(name)), GREEDY))
    engine.step()
    engine.add(GenerationRequest("long", prompt(100), GREEDY))
    for _ in range(5):
        assert {output.request_id for output in engine.step()} == {"a", "b"}
    assert {output.request_id for output in engine.step()} == {"a", "b", "long"}


@pytest.mark.parametrize("temperature", [0, 0.8])
def test_preempted_is_unpreempted(make_engine, alone, temperature):
    rng = random.Random(2)

    def params_of(i):
        return SamplingParams(70, temperature, seed=i, logprobs=2, score_prompt=i % 3 == 0)

    requests = requests_of(rng, 6, 40, params_of)
    engine = make_engine(6, num_blocks=8)
    outputs = run_like_a_server(engine, requests, rng)
    assert engine.num_preempted >= 2
    assert engine.cache_use.num_held == 0
    for request in requests:
        wanted = alone(request)
        assert assert_same(outputs[request.request_id], wanted)
        first, *others = outputs[request.request_id]
        assert (first.prompt_tokens is None) == (wanted[0].prompt_tokens is None)
        assert all(output.prompt_tokens is None for output in others)


def test_a_seeded_text_depends_on_nothing_but_itself(make_engine, alone):
    """Whatever it asks of the sampler, in a cache that is too small, beside others."""
    rng = random.Random(6)
    asked = [
        {"repetition_penalty": 1.3, "top_p": 0.9},
        {"presence_penalty": 0.5, "frequency_penalty": 0.3, "top_k": 40},
        {"min_p": 0.02, "min_tokens": 60},
        {"factual_nucleus": FactualNucleus(0.9, 0.3), "top_p": 0.9},
        {"source_penalties": SourcePenalties(0.5, 0.2, 9)},
        {},
    ]
    requests = requests_of(
        rng, 6, 40, lambda i: SamplingParams(70, 0.8, seed=i, logprobs=2, **asked[i])
    )
    engine = make_engine(6, num_blocks=8)
    outputs = run_like_a_server(engine, requests, rng)
    assert engine.num_preempted >= 2
    for request in requests:
        wanted = alone(request)
        assert ids(outputs[request.request_id]) == ids(wanted)


def test_the_latest_arrived_gives_way_and_the_first_never_waits(make_engine):
    engine = make_engine(4, num_blocks=8)
    long = SamplingParams(max_tokens=90, temperature=0, logprobs=2)
    for name in "abcd":
        engine.add(GenerationRequest(name, prompt(17, seed=ord(name)), long))
    advanced, finished = [], []
    while engine.has_work:
        outputs = engine.step()
        advanced.append("".join(sorted(output.request_id for output in outputs)))
        finished += [output.request_id for output in outputs if output.finished]
    assert engine.num_preempted
    assert finished == ["a", "b", "c", "d"]
    assert all("a" in names for names in advanced[:90])


def test_who_came_first_is_started_first(make_engine):
    engine = make_engine(1)
    for name in "bca":
        engine.add(GenerationRequest(name, prompt(5), SamplingParams(2, 0)))
    finished = []
    while engine.has_work:
        finished += [output.request_id for output in engine.step() if output.finished]
    assert finished == ["b", "c", "a"]


def test_choices_of_one_prompt_compute_it_once(make_engine, run, alone):
    requests = [
        GenerationRequest(f"c{i}", prompt(70), SamplingParams(20, 1.0, seed=4), choice=i)
        for i in range(6)
    ]
    engine = make_engine(6)
    outputs = run(engine, requests)
    for request in requests:
        assert ids(outputs[request.request_id]) == ids(alone(request))
    use = engine.cache_use
    assert (use.num_started_tokens, use.num_shared_tokens) == (6 * 70, 5 * 64)
    assert use.num_held == 0


def test_choices_hold_the_blocks_of_their_prompt_once(make_engine):
    engine = make_engine(6)
    for i in range(6):
        engine.add(GenerationRequest(f"c{i}", prompt(65), SamplingParams(9, 1.0), choice=i))
    engine.step()
    assert engine.cache_use.num_held == 5
    engine.step()
    assert engine.cache_use.num_held == 4 + 6


def test_a_prefix_that_ended_is_shared_with_whoever_begins_like_it(make_engine, run, alone):
    shots = prompt(60)
    requests = [GenerationRequest(f"r{i}", (*shots, *range(7, 8 + i)), GREEDY) for i in range(6)]
    engine = make_engine(1)
    for number, request in enumerate(requests):
        outputs = run(engine, [request])
        assert assert_same(outputs[request.request_id], alone(request))
        assert engine.cache_use.num_shared_tokens >= 48 * number


def test_a_text_goes_on_from_its_own_blocks(make_engine, run, alone):
    engine = make_engine(1)
    first = GenerationRequest("first", prompt(20), GREEDY)
    said = run(engine, [first])["first"]
    second = GenerationRequest("second", (*first.prompt_ids, *ids(said), 9), GREEDY)
    assert assert_same(run(engine, [second])["second"], alone(second))
    # 20 tokens and 23 of 24 generated are in the cache: two whole blocks of 16.
    assert engine.cache_use.num_shared_tokens == 32


def test_scores_of_a_cached_prompt_are_computed(make_engine, run):
    engine = make_engine(2)
    params = SamplingParams(max_tokens=4, temperature=0, logprobs=2, score_prompt=True)
    once, again = (
        run(engine, [GenerationRequest(name, prompt(50), params)])[name] for name in ("a", "b")
    )
    assert once[0].prompt_tokens == again[0].prompt_tokens
    assert len(once[0].prompt_tokens) == 50
    assert engine.cache_use.num_shared_tokens == 0


def test_alone_again_and_again(make_engine, run, alone):
    long, *short = [
        GenerationRequest(str(i), prompt(9 + i, seed=i), SamplingParams(n, 0, logprobs=2))
        for i, n in enumerate((70, 4, 3, 20, 9))
    ]
    engine, outputs = make_engine(2), []
    engine.add(long)
    while engine.has_work:
        if len(outputs) % 9 == 5 and short:
            engine.add(short.pop())
        outputs += [output for output in engine.step() if output.request_id == "0"]
    assert not short
    assert assert_same(outputs, alone(long))


def test_a_kernel_gets_what_it_needs(make_engine, alone, small_steps):
    small_steps(24)
    requests = requests_of(random.Random(4), 7, 60, lambda _: GREEDY)
    engine = make_engine(4, kernel=paged_kernel)
    outputs = run_like_a_server(engine, requests, random.Random(4))
    small_steps(2048)
    for request in requests:
        assert assert_same(outputs[request.request_id], alone(request))


def test_cancelled_in_the_midst_of_its_prompt(make_engine, small_steps, alone):
    small_steps(16)
    engine = make_engine(4)
    same = [GenerationRequest(name, prompt(60), GREEDY) for name in ("leader", "follower")]
    for request in same:
        engine.add(request)
    assert engine.step() == []
    assert engine.cache_use.num_held == 4
    engine.cancel("leader")
    assert engine.cache_use.num_held == 0
    outputs = []
    while engine.has_work:
        outputs += engine.step()
    assert assert_same(outputs, alone(same[1]))
    assert engine.cache_use.num_shared_tokens == 16


def test_a_failed_step_leaves_nothing_to_share(make_engine, run, alone, monkeypatch):
    engine = make_engine(2)
    request = GenerationRequest("a", prompt(40), GREEDY)
    real = engine._runner.logits
    monkeypatch.setattr(engine._runner, "logits", lambda hidden: real(hidden) * float("nan"))
    engine.add(request)
    with pytest.raises(UnshardError, match="NaN") as caught:
        engine.step()
    assert engine.cache_use.num_held == 3
    assert all(layer.any() for layer in engine._runner._cache.layers)
    engine.fail_step(caught.value)
    assert not any(layer.any() for layer in engine._runner._cache.layers)
    monkeypatch.undo()
    assert assert_same(run(engine, [request])["a"], alone(request))
    assert engine.cache_use.num_shared_tokens == 0


def test_what_decodes_survives_a_prompt_that_fails(make_engine, alone, monkeypatch):
    engine = make_engine(3)
    good, bad = (GenerationRequest(name, prompt(9, seed=3), GREEDY) for name in ("good", "bad"))
    engine.add(good)
    outputs = engine.step()
    real = engine._runner.run

    def failing(chunks):
        if any(chunk.sequence.request is bad for chunk in chunks):
            for layer in engine._runner._cache.layers:
                for chunk in chunks:
                    layer[chunk.sequence.table.blocks[-1], :, :, -1] = float("nan")
            raise RuntimeError("out of memory")
        return real(chunks)

    monkeypatch.setattr(engine._runner, "run", failing)
    engine.add(bad)
    with pytest.raises(RuntimeError) as caught:
        engine.step()
    assert [o.request_id for o in engine.fail_step(caught.value)] == ["bad"]
    while engine.has_work:
        outputs += engine.step()
    assert_same(outputs, alone(good))


def soak(make_engine, alone, small_steps, seed, number, max_batch, num_blocks):
    """Random requests, a seventh of them cancelled, in a cache that is too small."""
    rng = random.Random(seed)
    small_steps(48)
    requests = requests_of(
        rng, number, 70, lambda _: SamplingParams(rng.randint(1, 58), 0, logprobs=2)
    )
    engine = make_engine(max_batch, num_blocks)
    cancelled = [request.request_id for request in requests[::7]]
    together = run_like_a_server(engine, requests, rng, cancelled)
    small_steps(2048)
    whole = 0
    for request in requests:
        found, wanted = together[request.request_id], alone(request)
        if request.request_id in cancelled and not (found and found[-1].finished):
            wanted = wanted[: len(found)]
        whole += assert_same(found, wanted)
    assert engine.cache_use.num_held == 0
    assert engine.num_preempted
    assert whole >= 0.98 * number


def test_random_requests_batched_are_alone(make_engine, alone, small_steps):
    soak(make_engine, alone, small_steps, 3, number=20, max_batch=6, num_blocks=9)


@pytest.mark.slow
@pytest.mark.parametrize(("max_batch", "num_blocks"), [(5, 12), (32, 40)])
def test_200_random_requests_batched_are_alone(
    make_engine, alone, small_steps, max_batch, num_blocks
):
    soak(make_engine, alone, small_steps, 2, 200, max_batch, num_blocks)
