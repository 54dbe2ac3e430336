"""Laws of sampling: the distribution is the oracle's, the draw is the request's own."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from unshard.engine.history import History
from unshard.engine.request import SamplingParams
from unshard.engine.sampler import Draw, sample, uniform
from unshard.engine.scoring import score_tokens
from unshard.engine.truncation import Kept, best_tokens
from unshard.errors import UnshardError

LOGITS = np.array([0.3, 2.0, -1.0, 1.2, 0.9, -3.0, 1.9, 0.0], dtype=np.float32)


def said(params, generated, prompt_ids=(2,)):
    """The history of a text that said `generated`."""
    history = History(params, prompt_ids)
    for token_id in generated:
        history.add(token_id)
    return history


def oracle(logits, temperature, top_p):
    """Probabilities after temperature and nucleus, in numpy."""
    scaled = logits.astype(np.float64) / temperature
    p = np.exp(scaled - scaled.max())
    p /= p.sum()
    kept, mass = np.zeros_like(p), 0.0
    for token in sorted(range(len(p)), key=lambda i: -p[i]):
        if mass >= top_p and mass > 0:
            break
        kept[token] = p[token]
        mass += p[token]
    return kept / kept.sum()


@pytest.mark.parametrize("temperature", [0.4, 2.5])
@pytest.mark.parametrize("top_p", [1.0, 0.7, 0.05])
def test_frequencies_are_the_oracles(temperature, top_p):
    num_draws = 1500
    params = SamplingParams(temperature=temperature, top_p=top_p)
    draws = [Draw(params, 11, 0, position) for position in range(num_draws)]
    tokens = sample(torch.from_numpy(LOGITS).repeat(num_draws, 1), draws)
    wanted = oracle(LOGITS, temperature, top_p)
    found = np.bincount(tokens, minlength=len(LOGITS)) / num_draws
    assert (found[wanted == 0] == 0).all()
    assert (np.abs(found - wanted) <= 4 * np.sqrt(wanted * (1 - wanted) / num_draws) + 1e-9).all()


@given(
    st.lists(st.floats(-8, 8, width=32), min_size=1, max_size=12),
    st.integers(0, 13),
    st.floats(0.01, 1.0),
    st.floats(0, 1),
    st.sampled_from([(1, 1), (1, 3), (2, 2), (5, 1), (32, 128)]),
)
def test_what_is_kept_is_what_each_rule_keeps(values, top_k, top_p, min_p, looked_at):
    p = torch.tensor(values).softmax(0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("unshard.engine.truncation.GROUP", looked_at[0])
        patch.setattr("unshard.engine.truncation.LIKELY", looked_at[1])
        (masses,), (ids,) = best_tokens(p[None], [Kept(top_k, top_p, min_p)])
    assert torch.equal(masses, p[ids])
    assert torch.equal(masses, p.sort(descending=True).values[: len(ids)])
    assert len(set(ids.tolist())) == len(ids)
    assert len(ids) <= (top_k or len(p))
    assert masses[-1] >= min_p * masses[0]
    best = p.double().sort(descending=True).values[: top_k or len(p)]
    share = best.sum() if 0 < top_k < len(p) else 1.0
    assert len(ids) == 1 or masses[:-1].double().sum() < top_p * share + 1e-9
    if len(ids) < len(best):
        next_is_too_small = best[len(ids)] < min_p * best[0]
        assert next_is_too_small or masses.double().sum() >= top_p * share - 1e-6


@given(st.integers(1, 1200), st.integers(0, 2**32), st.sampled_from([0.0, 0.3, 1 - 2**-53]))
def test_a_draw_among_all_is_the_inverse_cdf(size, seed, number):
    logits = torch.randn(1, size, generator=torch.Generator().manual_seed(seed)) * 4
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("unshard.engine.sampler.uniform", lambda *_: number)
        (token,) = sample(logits, [Draw(SamplingParams(), 0, 0, 0)])
    cumulative = logits[0].double().softmax(0).cumsum(0)
    assert cumulative[token] >= number - 1e-6
    assert token == 0 or cumulative[token - 1] <= number + 1e-6


def test_bias_and_penalties_move_the_best_token():
    logits = torch.from_numpy(LOGITS).repeat(5, 1)
    params = [
        SamplingParams(temperature=0, logit_bias=((5, 9.0), (1, -0.5))),
        SamplingParams(temperature=0, presence_penalty=0.2),
        SamplingParams(temperature=0, frequency_penalty=0.04),
        SamplingParams(temperature=0, presence_penalty=-4.0),
        SamplingParams(temperature=0),
    ]
    draws = [Draw(each, 0, 0, 4, said(each, (1, 1, 7))) for each in params]
    before = logits.clone()
    assert sample(logits, draws) == [5, 6, 1, 1, 1]
    assert torch.equal(logits, before)
    often = Draw(params[2], 0, 0, 4, said(params[2], (1, 1, 1)))
    assert sample(logits[:1], [often]) == [6]


def test_rows_do_not_depend_on_their_neighbours():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(40, 50, generator=generator) * 3
    rng = np.random.default_rng(0)
    params = [
        SamplingParams(
            temperature=float(rng.choice([0.0, 0.3, 1.0])),
            top_p=float(rng.choice([0.0, 0.5, 0.95, 1.0])),
            top_k=int(rng.choice([0, 0, 5])),
            min_p=float(rng.choice([0.0, 0.0, 0.1])),
            frequency_penalty=float(rng.choice([0.0, 0.5])),
            repetition_penalty=float(rng.choice([1.0, 1.3])),
            min_tokens=int(rng.choice([0, 20])),
        )
        for _ in range(40)
    ]
    draws = [
        Draw(each, int(rng.integers(5)), row % 2, row, said(each, range(row)))
        for row, each in enumerate(params)
    ]
    together = sample(logits, draws)
    assert together == [sample(logits[i : i + 1], [d])[0] for i, d in enumerate(draws)]
    assert together != logits.argmax(1).tolist()


@pytest.mark.parametrize("params", [SamplingParams(temperature=0), SamplingParams(top_p=0)])
def test_greedy_takes_the_best(params):
    assert sample(torch.from_numpy(LOGITS)[None], [Draw(params, 1, 0, 0)]) == [1]


@pytest.mark.parametrize("temperature", [1e-300, 1e-3, 1e9])
def test_extreme_temperatures_draw_a_token(temperature):
    draws = [Draw(SamplingParams(temperature=temperature), 5, 0, i) for i in range(200)]
    tokens = set(sample(torch.from_numpy(LOGITS).repeat(200, 1), draws))
    assert tokens == ({1} if temperature < 1 else set(range(8)))


def test_the_largest_number_draws_a_kept_token(monkeypatch):
    monkeypatch.setattr("unshard.engine.sampler.uniform", lambda *_: 1 - 2**-53)
    draw = Draw(SamplingParams(top_p=0.9), 0, 0, 0)
    (token,) = sample(torch.from_numpy(LOGITS)[None], [draw])
    kept = oracle(LOGITS, 1.0, 0.9)
    assert kept[token] == kept[kept > 0].min()


@given(st.integers(-(2**70), 2**70), st.integers(0, 100), st.integers(0, 2048))
def test_a_draw_is_a_function_of_seed_choice_and_position(seed, choice, position):
    value = uniform(seed, choice, position)
    assert 0 <= value < 1
    assert value == uniform(seed, choice, position)
    others = {
        uniform(seed + 1, choice, position),
        uniform(seed, choice + 1, position),
        uniform(seed, choice, position + 1),
    }
    assert len(others | {value}) == 4


def test_nan_is_an_error():
    with pytest.raises(UnshardError, match="NaN"):
        sample(torch.tensor([[0.0, float("nan")]]), [Draw(SamplingParams(), 0, 0, 0)])


def test_logprobs_are_a_log_softmax_best_first():
    logits = torch.from_numpy(np.stack([LOGITS, LOGITS[::-1]]))
    scored = score_tokens(logits, [0, 3], num_alternatives=8)
    for row, token in zip(logits.numpy(), scored, strict=True):
        wanted = row - np.log(np.exp(row.astype(np.float64)).sum())
        assert token.logprob == pytest.approx(wanted[token.token_id], abs=1e-6)
        ids, values = zip(*token.alternatives, strict=True)
        assert list(ids) == np.argsort(-row).tolist()
        assert np.exp(values).sum() == pytest.approx(1, abs=1e-6)
        assert list(values) == sorted(values, reverse=True)
