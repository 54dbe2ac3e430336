"""Logits to tokens: greedy, temperature, top-p, with draws that do not depend on the batch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from unshard.engine.request import SamplingParams
from unshard.errors import UnshardError

NUCLEUS_GUESS = 4096
"""How many of the best tokens are looked at first for a nucleus."""


@dataclass(frozen=True, slots=True)
class Draw:
    """What decides one row's next token besides its logits."""

    params: SamplingParams
    seed: int
    choice: int
    position: int
    """Place of the token to draw in its sequence, prompt included."""


def uniform(seed: int, choice: int, position: int) -> float:
    """The random number in [0, 1) of one token: Philox keyed by (seed, choice), counted by
    position. A pure function, so a text can be continued or recomputed anywhere."""
    mask = 2**64 - 1
    key = np.array([seed & mask, choice & mask], dtype=np.uint64)
    return float(np.random.Generator(np.random.Philox(key=key, counter=position)).random())


def sample(logits: Tensor, draws: Sequence[Draw]) -> list[int]:
    """The next token of each row.

    Args:
        logits: (n, V) fp32.
        draws: n, one per row.

    Raises:
        UnshardError: a row's logits hold NaN, so there is no best token.
    """
    best, tokens = logits.max(dim=1)
    if any(map(math.isnan, best.tolist())):
        raise UnshardError(
            "the model computed NaN logits",
            hint="the weights may be damaged, or the dtype's range too small: try bf16 or fp32",
        )
    chosen: list[int] = tokens.tolist()
    for row, draw in enumerate(draws):
        if draw.params.temperature > 0 and draw.params.top_p > 0:
            chosen[row] = _draw(logits[row], draw)
    return chosen


def _draw(logits: Tensor, draw: Draw) -> int:
    """Inverse CDF over the kept tokens of one row (V,).

    Row by row: a batch of vocabularies falls out of the processor's caches, and a row's token
    cannot depend on its neighbours.
    """
    masses, ids = _tempered(logits, draw.params.temperature), None
    if draw.params.top_p < 1:
        masses, ids = nucleus(masses, draw.params.top_p)
    cumulative = masses.double().cumsum(0)
    total = cumulative[-1:]
    number = uniform(draw.seed, draw.choice, draw.position)
    # The product can round up to the total, which lies beyond the last kept token.
    target = torch.minimum(total * number, torch.nextafter(total, torch.zeros_like(total)))
    place = torch.searchsorted(cumulative, target, right=True)
    return int(place if ids is None else ids[place])


def _tempered(logits: Tensor, temperature: float) -> Tensor:
    """softmax(logits / temperature): (V,) fp32, divided in fp64 as temperatures may be tiny."""
    return ((logits - logits.max()).double() / temperature).float().softmax(0)


def nucleus(probabilities: Tensor, top_p: float) -> tuple[Tensor, Tensor]:
    """Probabilities and ids of one row's nucleus, best first, not renormalised.

    A token is kept while the mass of the better ones is < `top_p`; the best one always.
    Source: arXiv:1904.09751, metaseq's sequence generator.
    """
    # Sorting a whole vocabulary takes as long as a small model; its best part nearly always
    # holds the nucleus.
    masses, ids = probabilities.topk(min(NUCLEUS_GUESS, len(probabilities)))
    if masses.double().sum() < top_p:
        masses, ids = probabilities.sort(descending=True, stable=True)
    preceding = masses.double().cumsum(0) - masses
    kept = max(1, int((preceding < top_p).sum()))
    return masses[:kept], ids[:kept]
