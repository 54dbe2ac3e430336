"""Logits to tokens, many rows at once, with draws that do not depend on the batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from unshard.engine.history import History
from unshard.engine.penalties import penalized
from unshard.engine.request import SamplingParams
from unshard.engine.truncation import Kept, best_tokens
from unshard.errors import UnshardError

PIECE = 256
"""Neighbouring tokens whose masses are added up first when a draw is among all tokens."""

CPU_VALUES = 1 << 18
"""Logits drawn from at once on a CPU: more fall out of its caches."""


@dataclass(frozen=True, slots=True)
class Draw:
    """What decides one row's next token besides its logits."""

    params: SamplingParams
    seed: int
    choice: int
    position: int
    """Place of the token to draw in its sequence, prompt included."""
    history: History = field(default_factory=lambda: History(SamplingParams(), ()))
    """The tokens before it."""

    @property
    def is_greedy(self) -> bool:
        return self.params.temperature == 0 or self.params.top_p == 0

    @property
    def kept(self) -> Kept:
        """Which tokens may be drawn."""
        params, history, top_p = self.params, self.history, self.params.top_p
        if params.factual_nucleus is not None:
            top_p = params.factual_nucleus.top_p(top_p, history.num_generated, history.since_end)
        return Kept(params.top_k, top_p, params.min_p)

    @property
    def number(self) -> float:
        return uniform(self.seed, self.choice, self.position)


def uniform(seed: int, choice: int, position: int) -> float:
    """The random number in [0, 1) of one token: Philox keyed by (seed, choice), counted by
    position. A pure function, so a text can be continued or recomputed anywhere."""
    mask = 2**64 - 1
    key = np.array([seed & mask, choice & mask], dtype=np.uint64)
    return float(np.random.Generator(np.random.Philox(key=key, counter=position)).random())


def sample(logits: Tensor, draws: Sequence[Draw]) -> list[int]:
    """The next token of each row: bias and penalties, then temperature, then top-k, top-p and
    min-p, then the draw. Every operation goes along a row, so no row sees its neighbours.

    Args:
        logits: (n, V) fp32; not changed.
        draws: n, one per row.

    Raises:
        UnshardError: a row's logits hold NaN, so there is no best token.
    """
    tokens, is_nan = best_of_rows(logits)
    if is_nan:
        raise UnshardError(
            "the model computed NaN logits",
            hint="the weights may be damaged, or the dtype's range too small: try bf16 or fp32",
        )
    shaped = penalized(logits, [(draw.params, draw.history) for draw in draws])
    chosen = tokens if shaped is logits else best_of_rows(shaped)[0]
    rows_at_once = len(draws) if logits.is_cuda else max(1, CPU_VALUES // logits.shape[1])
    for truncated, draw_tokens in ((False, _draw_any), (True, _draw_best)):
        rows = [
            row
            for row, draw in enumerate(draws)
            if not draw.is_greedy and draw.kept.is_fewer == truncated
        ]
        for start in range(0, len(rows), rows_at_once):
            some = rows[start : start + rows_at_once]
            drawn = draw_tokens(shaped[some], [draws[row] for row in some])
            for row, token in zip(some, drawn, strict=True):
                chosen[row] = token
    return chosen


def best_of_rows(logits: Tensor) -> tuple[list[int], bool]:
    """The place of each row's largest value, or of a NaN where there is one; whether there is."""
    if logits.is_cuda:
        largest = logits.max(dim=1)
        return largest.indices.tolist(), bool(largest.values.isnan().any())
    rows = logits.numpy()  # looks at 16 values at once; torch's argmax takes ten times as long
    best = rows.argmax(axis=1)
    return best.tolist(), bool(np.isnan(rows[np.arange(len(best)), best]).any())


def _draw_any(logits: Tensor, draws: Sequence[Draw]) -> list[int]:
    """Inverse CDF over whole rows, in two steps: which piece of the row, and which token there."""
    masses = _tempered(logits, draws)
    size = masses.shape[1]
    num_pieces = size // PIECE
    pieces, rest = masses[:, : num_pieces * PIECE], masses[:, num_pieces * PIECE :]
    sums = pieces.view(len(draws), num_pieces, PIECE).sum(2, dtype=torch.float64)
    sums = torch.cat([sums, rest.sum(1, keepdim=True, dtype=torch.float64)], 1)
    ends = sums.cumsum(1)
    target = _target(ends[:, -1:], draws)
    piece = torch.searchsorted(ends, target, right=True)
    before = pad(ends, (1, 0)).gather(1, piece)
    places = piece * PIECE + torch.arange(PIECE, device=masses.device)
    inside = masses.gather(1, places.clamp(max=size - 1)).double() * (places < size)
    place = torch.searchsorted(before + inside.cumsum(1), target, right=True)
    # The piece's tokens, added up one by one, may fall short of the piece's sum.
    last = torch.where(inside > 0, torch.arange(PIECE, device=masses.device), 0).amax(1)
    tokens: list[int] = (piece[:, 0] * PIECE + torch.minimum(place[:, 0], last)).tolist()
    return tokens


def _draw_best(logits: Tensor, draws: Sequence[Draw]) -> list[int]:
    """Inverse CDF over the tokens that each row keeps, the best first."""
    masses, ids = best_tokens(_tempered(logits, draws), [draw.kept for draw in draws])
    cumulative = masses.double().cumsum(1)
    place = torch.searchsorted(cumulative, _target(cumulative[:, -1:], draws), right=True)
    tokens: list[int] = ids.gather(1, place)[:, 0].tolist()
    return tokens


def _target(totals: Tensor, draws: Sequence[Draw]) -> Tensor:
    """Where each row's draw falls in its mass: (n, 1) fp64, below `totals`."""
    numbers = [[draw.number] for draw in draws]
    products = totals * torch.tensor(numbers, dtype=torch.float64, device=totals.device)
    # A product can round up to the total, which lies beyond the last token.
    return torch.minimum(products, torch.nextafter(totals, torch.zeros_like(totals)))


def _tempered(logits: Tensor, draws: Sequence[Draw]) -> Tensor:
    """softmax(logits / temperature), row by row: (n, V) fp32."""
    temperatures = torch.tensor([[draw.params.temperature] for draw in draws], dtype=torch.float64)
    # Below fp32's least normal number the best token is all that is left, as it is at it.
    limits = torch.finfo(torch.float32)
    divisors = temperatures.clamp(limits.tiny, limits.max).float().to(logits.device)
    return (logits - logits.amax(1, keepdim=True)).div_(divisors).softmax(1)
