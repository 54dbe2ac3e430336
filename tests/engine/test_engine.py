"""Laws of the engine: the same answer whatever the batch, nothing cut, every slot freed."""

import random

import pytest
import torch

from unshard.architectures.opt import EOS_TOKEN_ID
from unshard.engine.detokenizer import Detokenizer
from unshard.engine.request import (
    FactualNucleus,
    GenerationRequest,
    SamplingParams,
    ScoredToken,
    SourcePenalties,
)
from unshard.errors import RequestError, UnshardError

GREEDY = SamplingParams(max_tokens=20, temperature=0)


def prompt(length, seed=0):
    rng = random.Random(seed)
    return (2, *(rng.randrange(4, 1000) for _ in range(length - 1)))


def ids(outputs):
    return [token.token_id for output in outputs for token in output.tokens]


def text(outputs):
    return "".join(output.text for output in outputs)


def mixed_requests(params_of):
    lengths = (1, 40, 7, 63, 2, 18, 31, 5, 90)
    return [
        GenerationRequest(f"r{i}", prompt(length, seed=i), params_of(i))
        for i, length in enumerate(lengths)
    ]


def test_greedy_continues_as_transformers(make_engine, run, peer):
    request = GenerationRequest("a", prompt(9), SamplingParams(max_tokens=50, temperature=0))
    ours = ids(run(make_engine(1), [request])["a"])
    start = torch.tensor([request.prompt_ids])
    with torch.inference_mode():
        theirs = peer.generate(
            start, attention_mask=torch.ones_like(start), max_new_tokens=50, do_sample=False
        )
    assert ours == theirs[0, 9:].tolist()
    assert len(ours) == 50
    assert len(set(ours)) > 10


def test_prompt_scores_are_those_of_transformers(make_engine, run, peer):
    params = SamplingParams(max_tokens=0, logprobs=2, score_prompt=True)
    request = GenerationRequest("a", prompt(100), params)
    (output,) = run(make_engine(1), [request])["a"]
    with torch.inference_mode():
        logprobs = peer(torch.tensor([request.prompt_ids])).logits[0].log_softmax(-1)
    first, *scored = output.prompt_tokens
    assert (first.token_id, first.logprob, first.alternatives) == (2, None, ())
    assert [token.token_id for token in scored] == list(request.prompt_ids[1:])
    for row, token in zip(logprobs[:-1], scored, strict=True):
        assert token.logprob == pytest.approx(row[token.token_id].item(), abs=1e-4)
        assert [i for i, _ in token.alternatives] == row.topk(2).indices.tolist()
    assert (output.text, output.tokens, output.finish_reason) == ("", (), "length")


@pytest.mark.parametrize("max_batch", [1, 3, 9])
@pytest.mark.parametrize(
    "params_of",
    [
        pytest.param(lambda i: SamplingParams(max_tokens=4 + i, temperature=0), id="greedy"),
        pytest.param(
            lambda i: SamplingParams(8 + i, 0.7 + i / 5, (1.0, 0.8, 0.4)[i % 3], seed=i // 2),
            id="sampled",
        ),
    ],
)
def test_batched_equals_alone(make_engine, run, max_batch, params_of):
    requests = mixed_requests(params_of)
    alone = {r.request_id: run(make_engine(1), [r])[r.request_id] for r in requests}
    engine = make_engine(max_batch)
    together = run(engine, requests)
    for request in requests:
        assert ids(together[request.request_id]) == ids(alone[request.request_id])
        assert text(together[request.request_id]) == text(alone[request.request_id])
    assert engine.cache_use.num_held == 0
    assert not engine.has_work


def test_late_arrivals_and_cancels_change_no_other_text(make_engine, run):
    requests = mixed_requests(lambda _: GREEDY)
    alone = {r.request_id: ids(run(make_engine(1), [r])[r.request_id]) for r in requests}
    engine, rng, together = make_engine(4), random.Random(5), {}
    waiting, cancelled = list(requests), set()
    while waiting or engine.has_work:
        if waiting and rng.random() < 0.3:
            engine.add(waiting.pop(0))
        if rng.random() < 0.04 and len(cancelled) < 3:
            victim = f"r{rng.randrange(len(requests))}"
            engine.cancel(victim)
            cancelled.add(victim)
        for output in engine.step():
            together.setdefault(output.request_id, []).append(output)
    assert cancelled
    finished = {name for name, outputs in together.items() if outputs[-1].finished}
    assert finished >= {r.request_id for r in requests} - cancelled
    for name, outputs in together.items():
        assert ids(outputs) == alone[name][: len(ids(outputs))]
    assert engine.cache_use.num_held == 0


def test_cancel_frees_the_blocks_at_once(make_engine):
    engine = make_engine(2)
    for name in ("a", "b", "c"):
        engine.add(GenerationRequest(name, prompt(20, seed=ord(name)), GREEDY))
    assert {output.request_id for output in engine.step()} == {"a", "b"}
    assert engine.cache_use.num_held == 4
    engine.cancel("a")
    assert engine.cache_use.num_held == 2
    assert {output.request_id for output in engine.step()} == {"b", "c"}
    for name in ("b", "c", "unknown"):
        engine.cancel(name)
    assert not engine.has_work
    assert engine.cache_use.num_held == 0
    assert engine.step() == []


def test_max_tokens_is_the_number_of_tokens(make_engine, run):
    for count in (0, 1, 7):
        params = SamplingParams(max_tokens=count, temperature=0)
        outputs = run(make_engine(1), [GenerationRequest("a", prompt(6), params)])["a"]
        assert len(ids(outputs)) == count
        assert [o.finish_reason for o in outputs if o.finished] == ["length"]


def test_the_context_can_be_filled_to_its_last_position(make_engine, run, config):
    room = 5
    params = SamplingParams(max_tokens=room, temperature=0)
    full = prompt(config.max_positions - room)
    outputs = run(make_engine(1), [GenerationRequest("a", full, params)])["a"]
    assert len(ids(outputs)) == room


def test_stop_strings_end_the_text_across_tokens(make_engine, run, tokenizer):
    free = run(make_engine(1), [GenerationRequest("a", prompt(9), GREEDY)])["a"]
    whole = text(free)
    assert len(whole) > 20
    for start in range(4, 16):
        stop = whole[start : start + 5]
        params = SamplingParams(max_tokens=20, temperature=0, stop=("never", stop))
        outputs = run(make_engine(1), [GenerationRequest("a", prompt(9), params)])["a"]
        assert text(outputs) == whole[: whole.index(stop)]
        assert outputs[-1].finish_reason == "stop"
        assert ids(outputs) == ids(free)[: len(ids(outputs))]


def test_held_back_text_comes_out_at_the_end(make_engine, run):
    whole = text(run(make_engine(1), [GenerationRequest("a", prompt(9), GREEDY)])["a"])
    params = SamplingParams(max_tokens=20, temperature=0, stop=(whole[-6:] + "!",))
    outputs = run(make_engine(1), [GenerationRequest("a", prompt(9), params)])["a"]
    assert text(outputs) == whole
    assert outputs[-1].finish_reason == "length"


def test_eos_is_the_last_token_and_no_text(make_engine, run):
    # At this temperature all tokens are about equally likely, so some seed draws `</s>` soon.
    params = [SamplingParams(100, 1e9, seed=seed) for seed in range(100)]
    requests = [GenerationRequest(str(i), (2,), p) for i, p in enumerate(params)]
    outputs = run(make_engine(50), requests)
    stopped = [o for o in outputs.values() if o[-1].finish_reason == "stop"]
    assert stopped
    for output in stopped:
        assert ids(output).index(EOS_TOKEN_ID) == len(ids(output)) - 1
        assert "</s>" not in text(output)


def test_min_tokens_keep_the_text_from_ending(make_engine, run):
    """Neither `</s>` nor a stop string ends it before, both do after."""
    likes_eos = {"temperature": 0, "logit_bias": ((EOS_TOKEN_ID, 1000.0),)}
    requests = [
        GenerationRequest(str(n), (2, 9), SamplingParams(12, min_tokens=n, **likes_eos))
        for n in (0, 1, 7, 12)
    ]
    for name, outputs in run(make_engine(4), requests).items():
        assert len(ids(outputs)) == min(12, int(name) + 1)
        assert ids(outputs).count(EOS_TOKEN_ID) == (name != "12")
        assert outputs[-1].finish_reason == ("length" if name == "12" else "stop")


def test_a_stop_string_ends_the_text_only_after_min_tokens(make_engine, run, tokenizer):
    free = run(make_engine(1), [GenerationRequest("a", prompt(9), GREEDY)])["a"]
    whole, said = text(free), ids(free)
    stop = max((whole[at : at + 3] for at in range(len(whole) - 2)), key=whole.count)
    assert whole.count(stop) > 1
    for min_tokens in range(20):
        params = SamplingParams(20, 0, stop=(stop,), min_tokens=min_tokens)
        outputs = run(make_engine(1), [GenerationRequest("a", prompt(9), params)])["a"]
        too_early = len(Detokenizer().push(tokenizer.decode_bytes(said[:min_tokens])))
        found = whole.find(stop, max(0, too_early - len(stop) + 1))
        assert text(outputs) == (whole if found < 0 else whole[:found])
        assert len(ids(outputs)) > min_tokens


def test_the_nucleus_is_wide_again_after_a_sentence(make_engine, tokenizer):
    nucleus = FactualNucleus(0.5, 0.1)
    engine = make_engine(1)
    engine.add(GenerationRequest("a", (2, 9), SamplingParams(9, 1, 0.8, factual_nucleus=nucleus)))
    (sequence,) = engine._sequences.values()
    found = []
    for token_id in [*tokenizer.encode("a b c"), *tokenizer.encode("?"), *tokenizer.encode("d")]:
        found.append(sequence.draw.kept.top_p)
        sequence.append(ScoredToken(token_id, None), tokenizer.token_bytes(token_id))
    assert found[-1] == 0.8
    assert min(found[:-1]) < 0.8


def test_streamed_text_is_the_decoding_of_the_tokens(make_engine, run, tokenizer):
    params = [SamplingParams(30, 1.5, seed=seed) for seed in range(8)]
    requests = [GenerationRequest(str(i), prompt(3), p) for i, p in enumerate(params)]
    for outputs in run(make_engine(8), requests).values():
        assert text(outputs) == tokenizer.decode(ids(outputs))


def test_choices_and_unseeded_requests_differ(make_engine, run):
    seeded = SamplingParams(12, 1.2, seed=7)
    unseeded = SamplingParams(12, 1.2)
    requests = [
        GenerationRequest("0", prompt(4), seeded, choice=0),
        GenerationRequest("0 again", prompt(4), seeded, choice=0),
        GenerationRequest("1", prompt(4), seeded, choice=1),
        GenerationRequest("free", prompt(4), unseeded),
        GenerationRequest("free too", prompt(4), unseeded),
    ]
    outputs = {name: tuple(ids(o)) for name, o in run(make_engine(5), requests).items()}
    assert outputs["0"] == outputs["0 again"]
    assert len(set(outputs.values())) == 4


def test_penalties_count_what_was_generated(make_engine, run):
    params = SamplingParams(30, temperature=0, presence_penalty=1e6)
    outputs = run(make_engine(1), [GenerationRequest("a", prompt(4), params)])["a"]
    assert len(set(ids(outputs))) == len(ids(outputs)) == 30


def test_logprobs_come_only_when_asked(make_engine, run):
    for logprobs in (None, 0, 3):
        params = SamplingParams(4, temperature=0, logprobs=logprobs)
        outputs = run(make_engine(1), [GenerationRequest("a", prompt(4), params)])["a"]
        for token in (t for o in outputs for t in o.tokens):
            assert (token.logprob is None) == (logprobs is None)
            assert len(token.alternatives) == (logprobs or 0)
            if logprobs:
                assert token.alternatives[0] == (token.token_id, token.logprob)


@pytest.mark.parametrize(
    ("prompt_ids", "params", "param", "code"),
    [
        (prompt(120), SamplingParams(9), "max_tokens", "context_length_exceeded"),
        (prompt(129), SamplingParams(0), "prompt", "context_length_exceeded"),
        ((), SamplingParams(), "prompt", None),
        ((2, 99_999), SamplingParams(), "prompt", None),
        ((2, -1), SamplingParams(), "prompt", None),
        ((2,), SamplingParams(max_tokens=-1), "max_tokens", None),
        ((2,), SamplingParams(temperature=-0.1), "temperature", None),
        ((2,), SamplingParams(temperature=float("nan")), "temperature", None),
        ((2,), SamplingParams(top_p=1.1), "top_p", None),
        ((2,), SamplingParams(top_k=-1), "top_k", None),
        ((2,), SamplingParams(min_p=1.5), "min_p", None),
        ((2,), SamplingParams(presence_penalty=float("inf")), "presence_penalty", None),
        ((2,), SamplingParams(frequency_penalty=float("nan")), "frequency_penalty", None),
        ((2,), SamplingParams(logit_bias=((99_999, 1.0),)), "logit_bias", None),
        ((2,), SamplingParams(logit_bias=((5, float("nan")),)), "logit_bias", None),
        ((2,), SamplingParams(logit_bias=((5, 1e30),)), "logit_bias", None),
        ((2,), SamplingParams(repetition_penalty=0), "repetition_penalty", None),
        ((2,), SamplingParams(min_tokens=17), "min_tokens", None),
        ((2,), SamplingParams(min_tokens=-1), "min_tokens", None),
        ((2,), SamplingParams(factual_nucleus=FactualNucleus(1.5)), "lambda_decay", None),
        ((2,), SamplingParams(factual_nucleus=FactualNucleus(0.5, -1)), "omega_bound", None),
        ((2,), SamplingParams(source_penalties=SourcePenalties(1e9)), "alpha_presence_src", None),
        (
            (2,),
            SamplingParams(source_penalties=SourcePenalties(frequency=float("nan"))),
            "alpha_frequency_src",
            None,
        ),
        ((2,), SamplingParams(logprobs=-1), "logprobs", None),
        ((2,), SamplingParams(logprobs=99_999), "logprobs", None),
        ((2,), SamplingParams(stop=("a", "")), "stop", None),
    ],
)
def test_impossible_requests_are_refused(make_engine, prompt_ids, params, param, code):
    engine = make_engine(1)
    with pytest.raises(RequestError) as caught:
        engine.add(GenerationRequest("a", prompt_ids, params))
    assert (caught.value.param, caught.value.code) == (param, code)
    assert not engine.has_work


def test_an_id_in_use_is_refused(make_engine):
    engine = make_engine(1)
    engine.add(GenerationRequest("a", prompt(2)))
    with pytest.raises(RequestError, match="in use"):
        engine.add(GenerationRequest("a", prompt(2)))


def test_nan_logits_end_the_request_with_an_error(make_engine, monkeypatch):
    engine = make_engine(1)
    real = engine._runner.logits
    monkeypatch.setattr(engine._runner, "logits", lambda hidden: real(hidden) * float("nan"))
    engine.add(GenerationRequest("a", prompt(2), GREEDY))
    with pytest.raises(UnshardError, match="NaN") as caught:
        engine.step()
    (output,) = engine.fail_step(caught.value)
    assert output.error is caught.value
    assert engine.cache_use.num_held == 0
