"""Laws of scoring documents and of continuing prompts, many lines at once."""

import math
import random

import pytest
import torch

from unshard.engine.documents import DocumentJob, likelihood_fields, likelihood_of, window_size
from unshard.engine.engine import Engine
from unshard.engine.jobs import run_jobs
from unshard.engine.likelihood import Likelihood
from unshard.engine.prompts import PromptJob
from unshard.engine.request import GenerationRequest, SamplingParams
from unshard.engine.windows import windows
from unshard.errors import UnshardError, WorkerLostError
from unshard.library.input_lines import InputLine
from unshard.progress import Silent

PHRASE = "the king of men lord “speak” my sön whom I\tlove, and\r\nnot ROMEO.\n"
WORDS = PHRASE.split(" ")


def line(number, **fields):
    return InputLine(number, f"f, line {number}", number, 1000, fields)


def document(seed, num_words):
    rng = random.Random(seed)
    return " ".join(rng.choice(WORDS) for _ in range(num_words))


def answers(engine, jobs, most_requests=8, progress=None):
    found = run_jobs(engine, jobs, progress or Silent(), most_requests=most_requests)
    return [(job.line.id, job.answer()) for job in found]


def scores(engine, tokenizer, texts, stride=64, **options):
    size = window_size(engine.config)
    jobs = [
        DocumentJob(line(i, text=text), tokenizer, size, stride) for i, text in enumerate(texts)
    ]
    return [answer["log_likelihood"] for _, answer in answers(engine, jobs, **options)]


def peer_score(peer, ids, size, stride):
    """Every token's logprob, each with as much in front of it as the window's rule gives."""
    total = 0.0
    for place in range(len(ids)):
        if place < size:
            start = 0
        else:
            end = min(len(ids), size + stride * math.ceil((place + 1 - size) / stride))
            start = end - size
        with torch.inference_mode():
            logits = peer(torch.tensor([[2, *ids[start:place]]])).logits[0, -1]
        total += logits.log_softmax(-1)[ids[place]].item()
    return total


@pytest.mark.parametrize(("size", "stride"), [(1, 1), (7, 1), (7, 3), (7, 7), (8, 5)])
def test_windows_score_each_token_once_with_a_full_window_before_it(size, stride):
    for num_tokens in range(40):
        scored = []
        for window in windows(num_tokens, size, stride):
            scored += range(window.first, window.end)
            assert window.end - window.start == min(size, num_tokens)
            assert window.first - window.start in {0, *range(size - stride, size)}
        assert scored == list(range(num_tokens))


def test_a_document_that_fits_scores_as_by_transformers(make_engine, tokenizer, peer):
    text = document(1, 40)
    ids = tokenizer.encode(text)
    assert 60 < len(ids) < 127
    with torch.inference_mode():
        logprobs = peer(torch.tensor([[2, *ids]])).logits[0, :-1].log_softmax(-1)
    theirs = logprobs.gather(1, torch.tensor(ids)[:, None]).double().sum().item()
    for stride in (1, 64, 127):
        [ours] = scores(make_engine(4), tokenizer, [text], stride)
        assert ours == pytest.approx(theirs, abs=1e-4)


@pytest.mark.slow
def test_a_long_document_scores_as_its_windows_by_transformers(make_engine, tokenizer, peer):
    text = document(2, 110)
    ids = tokenizer.encode(text)
    assert len(ids) > 190
    [ours] = scores(make_engine(4), tokenizer, [text], 40)
    assert ours == pytest.approx(peer_score(peer, ids, 127, 40), rel=1e-6, abs=1e-4)


@pytest.mark.parametrize(
    ("max_batch", "num_blocks", "most"), [(1, None, 1), (3, 9, 5), (16, 20, 64)]
)
def test_batched_equals_alone_and_order_is_kept(
    make_engine, tokenizer, max_batch, num_blocks, most
):
    texts = [document(seed, n) for seed, n in enumerate([3, 150, 0, 30, 1, 90, 2, 70, 12, 200])]
    alone = [scores(make_engine(1), tokenizer, [text])[0] for text in texts]
    engine = make_engine(max_batch, num_blocks)
    assert scores(engine, tokenizer, texts, most_requests=most) == pytest.approx(alone, abs=1e-4)
    assert not engine.has_work
    assert engine.cache_use.num_held == 0


def test_only_tokens_that_were_not_scored_get_logits(make_engine, tokenizer, monkeypatch):
    engine, rows = make_engine(4), []
    logits = engine._runner.logits
    monkeypatch.setattr(engine._runner, "logits", lambda h: rows.append(len(h)) or logits(h))
    text = document(3, 150)
    scores(engine, tokenizer, [text], 10)
    assert sum(rows) == len(tokenizer.encode(text))
    assert max(rows) <= 64


def test_short_documents_share_steps(make_engine, tokenizer, monkeypatch):
    engine, steps = make_engine(64), []
    run = engine._runner.run
    monkeypatch.setattr(
        engine._runner, "run", lambda c: steps.append(sum(x.num_tokens for x in c)) or run(c)
    )
    scores(engine, tokenizer, [document(n, 20) for n in range(150)], most_requests=128)
    assert len(steps) <= 2 + sum(steps) / 2048
    assert max(steps) <= 2048


def test_units_are_those_of_the_text(make_engine, tokenizer):
    text = "“sön”\r\n"
    job = DocumentJob(line(1, text=text), tokenizer, 127, 64)
    [(_, answer)] = answers(make_engine(1), [job])
    nats = -answer["log_likelihood"]
    assert (answer["chars"], answer["bytes"]) == (7, 12)
    assert answer["perplexity"] == pytest.approx(math.exp(nats / answer["tokens"]))
    assert answer["bits_per_byte"] == pytest.approx(nats / math.log(2) / 12)
    assert answer["bits_per_char"] == pytest.approx(nats / math.log(2) / 7)
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_totals_are_sums_and_no_text_has_no_perplexity():
    total = Likelihood(2, 5, 4, -1.5) + Likelihood(3, 6, 6, -2.0)
    assert total == Likelihood(5, 11, 10, -3.5) == likelihood_of(likelihood_fields(total))
    nothing = Likelihood()
    assert (nothing.perplexity, nothing.bits_per_byte, nothing.bits_per_char) == (None,) * 3


def test_nan_is_an_error_of_its_document(make_engine, tokenizer, monkeypatch):
    engine = make_engine(1)
    monkeypatch.setattr(engine._runner, "logits", lambda h: torch.full((len(h), 1000), math.nan))
    [(_, answer)] = answers(engine, [DocumentJob(line(1, text="my lord"), tokenizer, 127, 64)])
    assert answer["error"]["message"] == "the model computed NaN logits"


def prompt_jobs(tokenizer, lines, **defaults):
    params = SamplingParams(**{"max_tokens": 12, "seed": 5, **defaults})
    return [PromptJob(each, tokenizer, params) for each in lines]


def test_prompts_are_continued_as_alone_in_order(make_engine, run, tokenizer):
    lines = [
        line(n, prompt=document(n, n), max_tokens=1 + 5 * (n % 4), temperature=(n % 3) / 2)
        for n in range(1, 20)
    ]
    found = answers(make_engine(4, 24), prompt_jobs(tokenizer, lines))
    assert [name for name, _ in found] == list(range(1, 20))
    for number, answer in found:
        fields = lines[number - 1].fields
        params = SamplingParams(fields["max_tokens"], fields["temperature"], seed=answer["seed"])
        request = GenerationRequest("a", tokenizer.prompt_ids(fields["prompt"]), params)
        alone = run(make_engine(1), [request])["a"]
        assert answer["text"] == "".join(output.text for output in alone)
        assert answer["completion_tokens"] == sum(len(output.tokens) for output in alone)


def test_equal_prompts_differ_unless_they_have_the_same_seed(make_engine, tokenizer):
    seeds = [None, None, 3, 3]
    lines = [line(n, prompt="KING.", seed=seed) for n, seed in enumerate(seeds, 1)]
    one, two, three, four = (
        a["text"] for _, a in answers(make_engine(4), prompt_jobs(tokenizer, lines))
    )
    assert one != two
    assert three == four != one


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({}, "the field prompt is missing"),
        ({"prompt": ["a"]}, "the field prompt is not a string"),
        ({"prompt": "\ud800"}, "half a surrogate pair"),
        ({"prompt": "a", "max_token": 3}, "there is no field 'max_token'"),
        ({"prompt": "a", "max_tokens": 1.5}, "max_tokens is not an integer"),
        ({"prompt": "a", "max_tokens": True}, "max_tokens is not an integer"),
        ({"prompt": "a", "max_tokens": 500}, "exceed the model's context of 128 tokens"),
        ({"prompt": "a", "temperature": "hot"}, "temperature is not a number"),
        ({"prompt": "a", "temperature": 10**400}, "temperature is inf"),
        ({"prompt": "a", "top_p": 1.5}, "top_p is 1.5"),
        ({"prompt": "a", "stop": [3]}, "stop is neither a string nor a list"),
        ({"prompt": "a", "stop": ""}, "a stop string is empty"),
    ],
)
def test_what_is_wrong_with_a_line_is_said_in_its_place(make_engine, tokenizer, fields, problem):
    lines = [line(1, prompt="b"), line(2, **fields), line(3, prompt="c")]
    first, wrong, last = answers(make_engine(2), prompt_jobs(tokenizer, lines))
    assert problem in wrong[1]["error"]["message"]
    assert first[1]["completion_tokens"] == last[1]["completion_tokens"] == 12


def test_a_step_that_fails_ends_its_lines_alone(make_engine, tokenizer, monkeypatch):
    engine = make_engine(1)
    step, calls = engine._runner.run, []

    def run(chunks):
        calls.append(chunks)
        if len(calls) == 2:
            raise UnshardError("a kernel failed")
        return step(chunks)

    monkeypatch.setattr(engine._runner, "run", run)
    texts = [line(n, text=document(n, 10)) for n in range(3)]
    found = answers(engine, [DocumentJob(each, tokenizer, 127, 64) for each in texts])
    assert ["error" in answer for _, answer in found] == [False, True, False]


def test_progress_ends_at_the_bytes_of_all_lines(make_engine, tokenizer):
    class Counted(Silent):
        def __init__(self):
            self.steps = []

        def advance(self, num_bytes):
            self.steps.append(num_bytes)

    progress = Counted()
    texts = [document(1, 300), "", document(2, 3)]
    scores(make_engine(2), tokenizer, texts, progress=progress)
    assert sum(progress.steps) == 3000
    assert sum(0 < n < 1000 for n in progress.steps) > 3  # window by window


def test_a_lost_rank_ends_the_work_and_answers_no_line(make_engine, tokenizer, monkeypatch):
    engine, step, steps = make_engine(2), Engine.step, []

    def some_steps(engine):
        steps.append(1)
        if len(steps) > 3:
            raise WorkerLostError("rank 1 of 2 was ended by SIGKILL")
        return step(engine)

    monkeypatch.setattr(Engine, "step", some_steps)
    lines = [line(0, prompt="x", max_tokens=1), *(line(i, prompt="x") for i in range(1, 9))]
    jobs = (PromptJob(each, tokenizer, SamplingParams(50)) for each in lines)
    answered = []
    with pytest.raises(WorkerLostError):
        answered.extend(run_jobs(engine, jobs, Silent(), most_requests=4))
    assert [job.error for job in answered] in ([], [None])
