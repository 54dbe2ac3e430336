"""Which tokens may be drawn: the k best, a nucleus, those not far below the best."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad

BEST_GUESSES = (512, 4096)
"""How many of the best tokens are looked at first, and if it takes more, then. Sorting a whole
vocabulary takes as long as a small model; its best part nearly always holds all that are kept."""


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
    num_rows, size = probabilities.shape
    masses, ids = probabilities[:, :0], probabilities[:, :0].long()
    counts = ids.new_zeros(num_rows)
    rows = list(range(num_rows))
    # How far a row is looked at is its own affair: equal masses may come in another order.
    for looked_at in (*(guess for guess in BEST_GUESSES if guess < size), size):
        best, best_ids = probabilities[rows].topk(looked_at, dim=1)
        counts[rows] = _num_kept(best, [kept[row] for row in rows], size)
        masses = pad(masses, (0, looked_at - masses.shape[1]))
        ids = pad(ids, (0, looked_at - ids.shape[1]))
        masses[rows], ids[rows] = best, best_ids
        # More, where all that was looked at is kept, or the rule needs to see more.
        needed = [max(int(counts[row]) + 1, kept[row].top_k) for row in rows]
        rows = [row for row, need in zip(rows, needed, strict=True) if need > looked_at]
        if not rows:
            break
    most = int(counts.max())
    beyond = torch.arange(most, device=masses.device) >= counts[:, None]
    return masses[:, :most].masked_fill(beyond, 0), ids[:, :most]


def _num_kept(masses: Tensor, kept: Sequence[Kept], size: int) -> Tensor:
    """How many of the first `masses` (n, m), the best first, each row keeps: (n,)."""
    rules = [(min(rule.top_k or size, size), rule.top_p, rule.min_p) for rule in kept]
    columns = torch.tensor(rules, dtype=torch.float64, device=masses.device).T[..., None]
    top_k, top_p, min_p = columns.unbind()
    among = torch.arange(masses.shape[1], device=masses.device) < top_k
    doubles = masses.double()
    preceding = doubles.cumsum(1) - doubles
    # Of all tokens the mass is 1, also where fewer are looked at.
    share = torch.where(top_k < size, (doubles * among).sum(1, keepdim=True), 1.0)
    nucleus = (preceding < top_p * share) | (top_p >= 1)
    num_kept: Tensor = (among & nucleus & (doubles >= min_p * doubles[:, :1])).sum(1)
    return num_kept.clamp(min=1)
