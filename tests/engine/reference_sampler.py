"""Sampling as its documentation says it, in plain Python: slow, one row, no library."""

from __future__ import annotations

import math
from collections import Counter

EOS = 2


def shaped_logits(logits, params, prompt_ids, generated):
    """The logits of one row after all that a request changes, as floats."""
    values = [float(value) for value in logits]
    if params.repetition_penalty != 1:
        for token in {*prompt_ids, *generated}:
            up = values[token] > 0
            r = params.repetition_penalty
            values[token] = values[token] / r if up else values[token] * r
    for token, bias in params.logit_bias:
        values[token] += bias
    for token, count in Counter(generated).items():
        values[token] -= params.presence_penalty + count * params.frequency_penalty
    values = source_penalized(values, params, prompt_ids)
    if len(generated) < params.min_tokens:
        values[EOS] = -math.inf
    return values


def source_penalized(values, params, prompt_ids):
    source = params.source_penalties
    if source is None or not (source.presence > 0 or source.frequency > 0):
        return values
    counted = prompt_ids if source.end <= 0 else prompt_ids[: source.end]
    for token, count in Counter(counted).items():
        penalty = count * source.frequency + (count > 0) * source.presence
        values[token] -= penalty * (params.temperature or 1)
    return values


def factual_top_p(params, generated, sentence_ends):
    """The nucleus of the next token, told from all tokens generated before it."""
    nucleus = params.factual_nucleus
    if nucleus is None or not generated:
        return params.top_p
    k = 0
    for token in generated:
        k = 0 if token in sentence_ends else k + 1
    return max(nucleus.omega_bound, params.top_p * nucleus.lambda_decay ** max(0, k - 1))


def probabilities(logits, params, prompt_ids=(2,), generated=(), sentence_ends=()):
    """The distribution of the next token; of greedy, 1 for the best one."""
    values = shaped_logits(logits, params, prompt_ids, generated)
    best = max(range(len(values)), key=lambda token: values[token])
    if params.temperature == 0 or params.top_p == 0:
        return [float(token == best) for token in range(len(values))]
    masses = [math.exp((value - values[best]) / params.temperature) for value in values]
    total = sum(masses)
    masses = [mass / total for mass in masses]
    kept = truncated(masses, params, factual_top_p(params, generated, sentence_ends))
    total = sum(kept)
    return [mass / total for mass in kept]


def truncated(masses, params, top_p):
    order = sorted(range(len(masses)), key=lambda token: -masses[token])
    among = order[: params.top_k] if params.top_k else order
    share = sum(masses[token] for token in among)
    kept, preceding = [0.0] * len(masses), 0.0
    for place, token in enumerate(among):
        in_nucleus = top_p >= 1 or preceding < top_p * share
        large = masses[token] >= params.min_p * masses[order[0]]
        if place == 0 or (in_nucleus and large):
            kept[token] = masses[token]
        preceding += masses[token]
    return kept
