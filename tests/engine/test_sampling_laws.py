"""The sampler against `reference_sampler`: the same distribution, whatever is asked together."""

import math
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import RepetitionPenaltyLogitsProcessor

# The import mode of the suite leaves test folders off the path.
sys.path.insert(0, str(Path(__file__).parent))

from reference_sampler import EOS, factual_top_p, probabilities, shaped_logits

from unshard.engine.history import History
from unshard.engine.penalties import penalized
from unshard.engine.request import FactualNucleus, SamplingParams, SourcePenalties
from unshard.engine.sampler import Draw, sample
from unshard.engine.scoring import score_tokens

SIZE = 11
ENDS = frozenset({3, 7})

tokens = st.lists(st.integers(0, SIZE - 1), max_size=9).map(tuple)
penalties = st.sampled_from([-1.0, 0.0, 0.25, 2.0])
all_params = st.builds(
    SamplingParams,
    temperature=st.sampled_from([0.0, 0.3, 1.0, 1.7]),
    top_p=st.sampled_from([0.0, 0.2, 0.6, 0.9, 1.0, 1.0]),
    top_k=st.sampled_from([0, 0, 1, 3, 10, 11, 99]),
    min_p=st.sampled_from([0.0, 0.0, 0.1, 0.7, 1.0]),
    presence_penalty=penalties,
    frequency_penalty=penalties,
    repetition_penalty=st.sampled_from([0.5, 1.0, 1.3]),
    logit_bias=st.dictionaries(st.integers(0, SIZE - 1), penalties, max_size=3).map(
        lambda biases: tuple(biases.items())
    ),
    min_tokens=st.integers(0, 6),
    factual_nucleus=st.none()
    | st.builds(FactualNucleus, st.sampled_from([0.3, 0.9, 1.0]), st.sampled_from([0.0, 0.3])),
    source_penalties=st.none()
    | st.builds(SourcePenalties, penalties, penalties, st.integers(-1, 4)),
)
logits_of_a_row = st.lists(st.floats(-6, 6, width=32), min_size=SIZE, max_size=SIZE)
rows = st.tuples(logits_of_a_row, all_params, tokens, tokens)


def history_of(params, prompt_ids, generated):
    history = History(params, (EOS, *prompt_ids), ENDS)
    for token in generated:
        history.add(token)
    return history


def draw_of(params, prompt_ids, generated, seed=0, position=None):
    place = 1 + len(prompt_ids) + len(generated) if position is None else position
    return Draw(params, seed, 0, place, history_of(params, prompt_ids, generated))


@given(st.lists(rows, min_size=1, max_size=5))
def test_what_is_changed_is_what_the_reference_changes(batch):
    logits = torch.tensor([row[0] for row in batch])
    before = logits.clone()
    found = penalized(logits, [(p, history_of(p, *texts)) for _, p, *texts in batch])
    assert torch.equal(logits, before)
    for row, (values, params, prompt_ids, generated) in zip(found, batch, strict=True):
        wanted = shaped_logits(values, params, (EOS, *prompt_ids), generated)
        assert row.tolist() == pytest.approx(wanted, abs=1e-4)


@given(st.lists(rows, min_size=1, max_size=5), st.floats(0, 1, exclude_max=True))
def test_every_draw_is_one_that_the_reference_allows(batch, number):
    """And each row's is the same alone."""
    logits = torch.tensor([row[0] for row in batch])
    draws = [draw_of(params, *texts) for _, params, *texts in batch]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("unshard.engine.sampler.uniform", lambda *_: number)
        found = sample(logits, draws)
        assert found == [sample(logits[i : i + 1], [draw])[0] for i, draw in enumerate(draws)]
    for token, (values, params, prompt_ids, generated) in zip(found, batch, strict=True):
        # Where a rule is decided by less than fp32 resolves, either way is right.
        allowed = [
            probabilities(values, near(params, by), (EOS, *prompt_ids), generated, ENDS)
            for by in (-1e-5, 0, 1e-5)
        ]
        shaped = shaped_logits(values, params, (EOS, *prompt_ids), generated)
        ties = [other for other in range(SIZE) if abs(shaped[other] - shaped[token]) < 1e-4]
        assert any(p[other] > 0 for p in allowed for other in ties)


def near(params, by):
    """`params` with rules that keep a little less or more."""
    if params.top_p in {0, 1}:
        return replace(params, min_p=max(0, params.min_p - by))
    return replace(params, top_p=params.top_p + by, min_p=max(0, params.min_p - by))


CHI_SQUARE_999 = {1: 10.83, 2: 13.82, 3: 16.27, 4: 18.47, 5: 20.52, 6: 22.46, 7: 24.32, 9: 27.88}
"""What chi-square exceeds once in a thousand times, by degrees of freedom."""
CASES = [
    {"temperature": 0.5},
    {"temperature": 1.6},
    {"top_p": 0.75},
    {"top_k": 4},
    {"min_p": 0.2},
    {"top_k": 6, "top_p": 0.8, "min_p": 0.1, "temperature": 1.3},
    {"min_tokens": 9, "repetition_penalty": 1.4, "presence_penalty": 0.5},
    {"source_penalties": SourcePenalties(0.5, 0.25), "temperature": 0.7},
    {"factual_nucleus": FactualNucleus(0.7, 0.1), "top_p": 0.95},
]
LOGITS = [0.3, 2.0, 1.0, 1.2, 0.9, -0.4, 1.9, 0.0, 1.5, 0.6, -0.2]


@pytest.mark.parametrize("fields", CASES, ids="+".join)
def test_draws_are_distributed_as_the_reference(fields):
    """Pearson's chi-square of 4000 draws with a fixed seed."""
    params, number = SamplingParams(**fields), 4000
    texts = (6, 6, 1), (8, 3, 1, 1, 4)
    draws = [draw_of(params, *texts, seed=17, position=place) for place in range(number)]
    found = np.bincount(sample(torch.tensor([LOGITS] * number), draws), minlength=SIZE)
    wanted = np.array(probabilities(LOGITS, params, (EOS, *texts[0]), texts[1], ENDS)) * number
    assert not found[wanted == 0].any()
    drawn = wanted > 0
    chi_square = ((found - wanted)[drawn] ** 2 / wanted[drawn]).sum()
    freedom = int(drawn.sum()) - 1
    assert freedom >= 1
    assert chi_square < CHI_SQUARE_999.get(freedom, 29.6)


@given(logits_of_a_row, tokens, st.sampled_from([0.5, 1.2, 2.0]))
def test_the_repetition_penalty_is_that_of_transformers(values, token_ids, penalty):
    ids, logits = (EOS, *token_ids), torch.tensor([values])
    params = SamplingParams(repetition_penalty=penalty)
    wanted = RepetitionPenaltyLogitsProcessor(penalty)(torch.tensor([ids]), logits.clone())
    half = len(token_ids) // 2
    history = history_of(params, token_ids[:half], token_ids[half:])
    torch.testing.assert_close(penalized(logits, [(params, history)]), wanted)


@given(all_params, tokens)
def test_the_nucleus_narrows_within_a_sentence(params, generated):
    wanted = factual_top_p(params, generated, ENDS)
    assert draw_of(params, (), generated).kept.top_p == pytest.approx(wanted)


def test_the_factual_nucleus_by_hand():
    """Tokens 3 and 7 end sentences: wide for the first two tokens of each, then ever narrower."""
    params = SamplingParams(top_p=0.8, factual_nucleus=FactualNucleus(0.5, 0.15))
    said = [1, 1, 1, 1, 3, 1, 1, 7, 3]
    found = [draw_of(params, (), said[:n]).kept.top_p for n in range(len(said) + 1)]
    assert found == pytest.approx([0.8, 0.8, 0.4, 0.2, 0.15, 0.8, 0.8, 0.4, 0.8, 0.8])
    wide = SamplingParams(top_p=0.2, factual_nucleus=FactualNucleus(0.5, 0.3))
    assert [draw_of(wide, (), said[:n]).kept.top_p for n in (0, 1)] == [0.2, 0.3]


@given(rows)
def test_logprobs_are_of_the_logits_as_they_come(row):
    """fp32, before everything that a request asks of them."""
    values, params, *texts = row
    logits = torch.tensor([values])
    (token,) = sample(logits, [draw_of(params, *texts)])
    (scored,) = score_tokens(logits, [token], 1)
    total = math.log(sum(math.exp(value) for value in values))
    assert scored.logprob == pytest.approx(values[token] - total, abs=1e-4)
    assert scored.alternatives[0][1] == pytest.approx(max(values) - total, abs=1e-4)
