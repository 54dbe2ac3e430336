"""Which tokens may be drawn: the k best, a nucleus, those not far below the best."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad

GROUP = 32
"""Neighbouring tokens of which the best tells where the best of all begin. Sorting a whole
vocabulary takes as long as a small model; so does looking for its best part by comparison."""
LIKELY = 128
"""Of so many tokens at least, the best, a nucleus is looked for first."""
SURELY_BELOW_1 = 1 - 1e-4
"""A nucleus so large may need any token: its rest is of the size of rounding errors."""


@dataclass(frozen=True, slots=True)
class Kept:
    """A rule for a row's tokens; the best one is always kept."""

    top_k: int
    """So many of the best; 0 is all."""
    top_p: float
    """A token is kept while the mass of the better ones is below this share of the `top_k`'s
    mass. Source: arXiv:1904.09751, metaseq's sequence generator."""
    min_p: float
    """A token is kept with at least this share of the best one's probability."""

    @property
    def is_fewer(self) -> bool:
        """Whether it may leave any token out."""
        return self.top_k > 0 or self.top_p < 1 or self.min_p > 0


def best_tokens(probabilities: Tensor, kept: Sequence[Kept]) -> tuple[Tensor, Tensor]:
    """Masses and ids of the tokens that each row keeps, the best first: (n, m) each, m as many as
    the widest row keeps; the others' masses beyond their own are 0.

    Args:
        probabilities: (n, V).
        kept: n, one per row.
    """
    size = probabilities.shape[1]
    likely, sure = _least_masses(probabilities, kept)
    masses, ids = _at_least(probabilities, likely)
    counts = _num_kept(masses, kept, size)
    all_are_kept = (counts >= (masses > 0).sum(1)) & (likely > sure)[:, 0]
    rows: list[int] = all_are_kept.nonzero()[:, 0].tolist()
    if rows:
        more, more_ids = _at_least(probabilities[rows], sure[rows])
        wider = max(0, more.shape[1] - masses.shape[1])
        masses, ids = pad(masses, (0, wider)), pad(ids, (0, wider))
        masses[rows, : more.shape[1]], ids[rows, : more.shape[1]] = more, more_ids
        counts[rows] = _num_kept(more, [kept[row] for row in rows], size)
    most = int(counts.max())
    beyond = torch.arange(most, device=masses.device) >= counts[:, None]
    return masses[:, :most].masked_fill(beyond, 0), ids[:, :most]


def _columns(kept: Sequence[Kept], size: int, device: torch.device) -> tuple[Tensor, ...]:
    """`top_k`, as many as there are for all, `top_p` and `min_p`: (n, 1) fp64 each."""
    rules = [(min(rule.top_k or size, size), rule.top_p, rule.min_p) for rule in kept]
    columns = torch.tensor(rules, dtype=torch.float64, device=device).T[..., None]
    return columns.unbind()


def _least_masses(probabilities: Tensor, kept: Sequence[Kept]) -> tuple[Tensor, Tensor]:
    """Masses below which each row surely keeps no token, and greater ones that are likely to do:
    (likely, sure), (n, 1) fp32 each."""
    num_rows, size = probabilities.shape
    top_k, top_p, min_p = _columns(kept, size, probabilities.device)
    num_groups = size // GROUP
    groups = probabilities[:, : num_groups * GROUP].view(num_rows, num_groups, GROUP).amax(2)
    ranks = torch.where(top_k < size, top_k, LIKELY).long()
    groups = groups.topk(min(num_groups, int(ranks.max())), dim=1).values
    # So many groups have a best token of that mass or more; beyond all groups nothing is known.
    at_rank = pad(groups, (0, 1)).gather(1, (ranks - 1).clamp(max=groups.shape[1])).double()
    is_nucleus = (top_k == size) & (top_p < 1)
    # What is below it adds up to half of the mass beyond the nucleus at most.
    tail = torch.where(is_nucleus & (top_p < SURELY_BELOW_1), (1 - top_p) / (2 * size), 0.0)
    by_rank = torch.where(top_k < size, at_rank, tail)
    best = probabilities.amax(1, keepdim=True).double()
    sure = torch.maximum(by_rank, min_p * best)
    likely = torch.where(is_nucleus, torch.maximum(sure, at_rank), sure)
    # Rounded to fp32 it must not be above a mass that it is equal to.
    rounded = 1 - 1e-6
    return (likely * rounded).float(), (sure * rounded).float()


def _at_least(probabilities: Tensor, least: Tensor) -> tuple[Tensor, Tensor]:
    """Masses and ids of each row's tokens with a mass of at least `least` (n, 1), the best first
    and equal ones in the order of their ids: (n, m) each, filled up with masses of 0."""
    num_rows = len(probabilities)
    rows, ids = (probabilities >= least).nonzero().unbind(1)
    counts = rows.bincount(minlength=num_rows)
    places = torch.arange(len(rows), device=rows.device) - (counts.cumsum(0) - counts)[rows]
    width = int(counts.max())
    masses = probabilities.new_zeros(num_rows, width)
    masses[rows, places] = probabilities[rows, ids]
    padded_ids = ids.new_zeros(num_rows, width)
    padded_ids[rows, places] = ids
    masses, order = masses.sort(dim=1, descending=True, stable=True)
    return masses, padded_ids.gather(1, order)


def _num_kept(masses: Tensor, kept: Sequence[Kept], size: int) -> Tensor:
    """How many of the first `masses` (n, m), the best first, each row keeps: (n,)."""
    top_k, top_p, min_p = _columns(kept, size, masses.device)
    num = masses.shape[1]
    doubles = masses.double()
    cumulative = doubles.cumsum(1)
    preceding = cumulative - doubles
    among = torch.arange(num, device=masses.device) < top_k
    # Of all tokens the mass is 1, also where fewer are looked at. A sum would depend on how many
    # there are, that is on the neighbours; a cumulative one does not.
    of_best = cumulative.gather(1, (top_k.long() - 1).clamp(max=num - 1))
    share = torch.where(top_k < size, of_best, 1.0)
    nucleus = (preceding < top_p * share) | (top_p >= 1)
    num_kept: Tensor = (among & nucleus & (doubles >= min_p * doubles[:, :1])).sum(1)
    return num_kept.clamp(min=1)
