"""Which magnitudes no healthy tensor has: the rule of docs/health.md.

Two witnesses speak of a value. Its own tensor: continue the tail of the magnitudes as a power
law (a straight line on log-log paper; heavier than any trained matrix's tail) and ask how far
it reaches with what chance. The same tensor of the neighbouring layers: how large do theirs
get.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping
from dataclasses import dataclass

from unshard.architectures.layers import split_layer
from unshard.health.statistics import TensorStatistics

NEIGHBOURS = 8
"""Layers on either side that a tensor is compared with."""
MIN_NEIGHBOURS = 3
ONCE = 1.0
"""Expected number of values beyond a limit, in a tensor whose tail is the power law."""
RARELY = 1e-3
NEVER = 1e-6
BEYOND_ALL_NEIGHBOURS = 1024.0
"""Times the neighbours' largest magnitude: corrupt, whatever the tensor's own tail says."""
UNUSUAL = 50.0
"""Times the neighbours' largest magnitude: worth a look."""
UNUSUAL_NEARBY = 2.0
BULK_NEARBY = 4.0


@dataclass(frozen=True, slots=True)
class Factors:
    """How far a value must be beyond the bulk to be called corrupt."""

    neighbours: float
    """Times the median of the neighbours' largest magnitudes."""
    own: float
    """Times the magnitude that 99 % of the tensor's own values do not exceed."""


MATRIX = Factors(neighbours=32.0, own=128.0)
VECTOR = Factors(neighbours=256.0, own=1024.0)
"""Norms and biases: trained models have outlier features there, so they get more room."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Magnitudes beyond which values of one tensor are outliers.

    As edges are found in pictures: one value beyond `high` makes its block suspect, and in a
    suspect block every value beyond `low` is reported. A tensor with no value beyond `high` is
    still unusual with one beyond `unusual`.
    """

    low: float
    high: float
    unusual: float
    """Infinite without neighbours."""
    neighbours: float | None
    """The median of the neighbours' largest magnitudes."""

    def thresholds(self, absmax: float) -> tuple[float, float]:
        """For a tensor that reaches `absmax`: what is reported, what makes a block suspect."""
        return (self.low, self.high) if absmax > self.high else (self.unusual, self.unusual)


def limits_of(tensors: Mapping[str, TensorStatistics]) -> dict[str, Limits]:
    """The limits of every tensor among its neighbours."""
    kin: dict[str, dict[int, float]] = {}
    for name, each in tensors.items():
        layer, kind = split_layer(name)
        if layer is not None and each.absmax > 0:  # neither all zeros nor all NaN
            kin.setdefault(kind, {})[layer] = each.absmax
    return {name: _limits(each, _neighbours(name, kin)) for name, each in tensors.items()}


def _neighbours(name: str, kin: Mapping[str, Mapping[int, float]]) -> float | None:
    layer, kind = split_layer(name)
    if layer is None:
        return None
    near = [
        absmax
        for other, absmax in kin.get(kind, {}).items()
        if other != layer and abs(other - layer) <= NEIGHBOURS
    ]
    return statistics.median(near) if len(near) >= MIN_NEIGHBOURS else None


def _limits(tensor: TensorStatistics, neighbours: float | None) -> Limits:
    is_vector = len(tensor.shape) < 2
    factors = VECTOR if is_vector else MATRIX
    candidates = []
    if neighbours is not None:
        candidates.append(max(tail_limit(tensor, RARELY), factors.neighbours * neighbours))
        candidates.append(BEYOND_ALL_NEIGHBOURS * neighbours)
    if neighbours is None or not is_vector:
        candidates.append(max(tail_limit(tensor, NEVER), factors.own * tensor.magnitude_99))
    high = min(candidates)
    bulk = BULK_NEARBY * tensor.magnitude_99 if neighbours is None else UNUSUAL_NEARBY * neighbours
    low = min(high, max(tail_limit(tensor, ONCE), bulk))
    unusual = math.inf if neighbours is None else UNUSUAL * neighbours
    return Limits(low, high, unusual, neighbours)


def tail_limit(tensor: TensorStatistics, expected: float) -> float:
    """The magnitude beyond which the tensor's power-law tail has `expected` values on average;
    infinite where the tensor is too small to have a tail."""
    if tensor.tail is None:
        return math.inf
    start, end = tensor.tail
    per_decade = math.log(end.magnitude / start.magnitude) / math.log(
        start.probability / end.probability
    )
    decades = math.log(end.probability * tensor.num_elements / expected)
    exponent = math.log(end.magnitude) + per_decade * decades
    return math.exp(exponent) if exponent < math.log(1e300) else math.inf
