"""Small histograms: signed magnitudes on a logarithmic axis, logarithmic counts."""

from __future__ import annotations

import html
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from unshard.architectures.layers import split_layer
from unshard.health.findings import Finding
from unshard.health.outliers import Limits
from unshard.health.statistics import TensorStatistics

HEIGHT = 60
BAR_WIDTH = 3
SMALL_HALF_OCTAVES = 14
"""How far below the median magnitude the axis goes; all that is smaller is one bar, with 0."""


@dataclass(frozen=True, slots=True)
class Axis:
    """Half-octaves `[low, high]` on both sides of zero, the same for a tensor in all layers."""

    low: int
    high: int

    @property
    def num_bars(self) -> int:
        return 2 * (self.high - self.low + 1) + 1

    def bar_of(self, half_octave: int, sign: int) -> int:
        """Number of the bar, from the most negative one; the middle one is around zero."""
        return self.num_bars // 2 + sign * max(0, half_octave - self.low + 1)


def axes_of(tensors: Iterable[TensorStatistics]) -> dict[str, Axis]:
    """One axis per kind of tensor, wide enough for every layer."""
    kinds: dict[str, list[TensorStatistics]] = {}
    for tensor in tensors:
        kinds.setdefault(split_layer(tensor.name)[1], []).append(tensor)
    return {kind: _axis(alike) for kind, alike in kinds.items()}


def _axis(alike: Sequence[TensorStatistics]) -> Axis:
    high = max(
        (tensor.histogram[-1].half_octave for tensor in alike if tensor.histogram), default=0
    )
    low = min((_median_bar(tensor) for tensor in alike if tensor.histogram), default=high)
    return Axis(min(low - SMALL_HALF_OCTAVES, high), high)


def _median_bar(tensor: TensorStatistics) -> int:
    total = sum(bar.negative + bar.positive for bar in tensor.histogram)
    seen = 0
    for bar in tensor.histogram:
        seen += bar.negative + bar.positive
        if 2 * seen >= total:
            return bar.half_octave
    return 0


def cards(
    tensors: Sequence[TensorStatistics],
    axes: Mapping[str, Axis],
    limits: Mapping[str, Limits],
    findings: Mapping[str, Sequence[Finding]],
) -> str:
    """A card per tensor: name, histogram, numbers."""
    return '<div class="cards">{}</div>'.format(
        "".join(
            _card(
                tensor,
                axes[split_layer(tensor.name)[1]],
                limits[tensor.name],
                findings.get(tensor.name, ()),
            )
            for tensor in tensors
        )
    )


def _card(tensor: TensorStatistics, axis: Axis, limits: Limits, findings: Sequence[Finding]) -> str:
    name = split_layer(tensor.name)[1].removeprefix("decoder.")
    shape = " × ".join(map(str, tensor.shape))
    severity = findings[0].severity if findings else ""
    beyond = limits.low if any(finding.kind == "outlier" for finding in findings) else math.inf
    numbers = {
        "absmax": number(tensor.absmax),
        "std": number(tensor.std),
        "mean": number(tensor.mean),
        "median": number(tensor.median),
        "MAD": number(tensor.mad),
        "zero": f"{tensor.num_zero / max(tensor.num_elements, 1):.2%}",
    }
    if tensor.num_nan or tensor.num_infinite:
        numbers |= {"NaN": f"{tensor.num_nan:,}", "Inf": f"{tensor.num_infinite:,}"}
    rows = "".join(f"<dt>{key}</dt><dd>{value}</dd>" for key, value in numbers.items())
    return (
        f'<figure class="{severity}"><figcaption>{escape(name)} '
        f"<small>{escape(tensor.dtype.name)} {shape}</small></figcaption>"
        f"{_histogram(tensor, axis, beyond)}<dl>{rows}</dl></figure>"
    )


def _histogram(tensor: TensorStatistics, axis: Axis, beyond: float) -> str:
    counts = [0] * axis.num_bars
    counts[axis.num_bars // 2] = tensor.num_zero
    for bar in tensor.histogram:
        counts[axis.bar_of(bar.half_octave, -1)] += bar.negative
        counts[axis.bar_of(bar.half_octave, +1)] += bar.positive
    top = math.log1p(max(counts)) or 1.0
    heights = [math.ceil(HEIGHT * math.log1p(count) / top) for count in counts]
    first_beyond = math.inf if math.isinf(beyond) else math.floor(2 * math.log2(beyond))
    is_beyond = [
        axis.low + abs(at - axis.num_bars // 2) - 1 >= first_beyond for at in range(axis.num_bars)
    ]
    plain = [0 if out else height for height, out in zip(heights, is_beyond, strict=True)]
    bad = [height if out else 0 for height, out in zip(heights, is_beyond, strict=True)]
    edge = number(2 ** ((axis.high + 1) / 2))
    width = axis.num_bars * BAR_WIDTH
    return (
        f'<svg class="hist" viewBox="0 0 {width} {HEIGHT}" preserveAspectRatio="none">'
        f'<path d="{_outline(plain)}"/>'
        + (f'<path class="bad" d="{_outline(bad)}"/>' if any(bad) else "")
        + f'</svg><div class="axis"><span>\N{MINUS SIGN}{edge}</span><span>0</span>'
        f"<span>{edge}</span></div>"
    )


def _outline(heights: Sequence[int]) -> str:
    """The bars as one closed path, runs of equal bars as one."""
    path, level, run = f"M0 {HEIGHT}", 0, 0
    for height in heights:
        if height != level:
            path += (f"h{run * BAR_WIDTH}" if run else "") + f"v{level - height}"
            level, run = height, 0
        run += 1
    return f"{path}h{run * BAR_WIDTH}V{HEIGHT}z"


def escape(text: str) -> str:
    """`text` with nothing left that HTML could take for markup, in elements and attributes."""
    return html.escape(text, quote=True)


def number(value: float, digits: int = 3) -> str:
    """A few digits, as short as they get: `0.0201`, `1.2e−07`, `−3`."""
    if math.isnan(value):
        return "NaN"
    return f"{value:.{digits}g}".replace("-", "\N{MINUS SIGN}")
