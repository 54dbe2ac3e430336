"""The whole model at one look: a cell per layer and tensor, coloured by how it differs."""

from __future__ import annotations

import math
import statistics
from bisect import bisect_right
from collections.abc import Mapping, Sequence

from unshard.architectures.layers import split_layer
from unshard.health.findings import Finding
from unshard.health.html_report.markup import escape, number
from unshard.health.statistics import TensorStatistics

STEPS = (0.25, 0.75, 1.5, 3.0, 5.0)
"""In octaves, up or down: where one shade ends and the next begins. The last is 32-fold."""
LABEL_WIDTH, CELLS_WIDTH, ROW_HEIGHT, TOP = 230, 900, 18, 20
METRICS = {"absmax": "largest magnitude", "std": "standard deviation"}

Grid = Mapping[str, Mapping[int, TensorStatistics]]
"""kind -> layer -> its tensor"""


def overview(tensors: Sequence[TensorStatistics], findings: Sequence[Finding]) -> str:
    """Heat maps of every metric, one of them shown; empty for a model without layers."""
    grid: dict[str, dict[int, TensorStatistics]] = {}
    for tensor in tensors:
        layer, kind = split_layer(tensor.name)
        if layer is not None:
            grid.setdefault(kind, {})[layer] = tensor
    if not grid:
        return ""
    marked: dict[str, str] = {}
    for finding in findings:  # the corrupt ones come first
        marked.setdefault(finding.tensor, finding.severity)
    choices = "".join(
        f'<input type="radio" name="metric" id="m-{metric}"{" checked" if not at else ""}>'
        f'<label for="m-{metric}">{words}</label>'
        for at, (metric, words) in enumerate(METRICS.items())
    )
    maps = "".join(_heat_map(metric, grid, marked) for metric in METRICS)
    return f'<div class="overview">{choices}{maps}{_legend()}</div>'


def _heat_map(metric: str, grid: Grid, marked: Mapping[str, str]) -> str:
    num_layers = 1 + max(max(row) for row in grid.values())
    width = min(36.0, CELLS_WIDTH / num_layers)
    rows = [
        _row(kind, row, metric, TOP + at * ROW_HEIGHT, width, marked)
        for at, (kind, row) in enumerate(grid.items())
    ]
    every = next(step for step in (1, 2, 4, 8, 16, 32, 64, 10**9) if step * width >= 22)
    ticks = "".join(
        f'<text class="tick" x="{LABEL_WIDTH + (layer + 0.5) * width:g}" y="12">{layer}</text>'
        for layer in range(0, num_layers, every)
    )
    height = TOP + len(rows) * ROW_HEIGHT
    total = math.ceil(LABEL_WIDTH + num_layers * width)
    return (
        f'<svg class="heat {metric}" viewBox="0 0 {total} {height}" '
        f'style="max-width:{total}px" role="img" aria-label="{METRICS[metric]} by layer">'
        f"{ticks}{''.join(rows)}</svg>"
    )


def _row(
    kind: str,
    row: Mapping[int, TensorStatistics],
    metric: str,
    top: int,
    width: float,
    marked: Mapping[str, str],
) -> str:
    values = {layer: float(getattr(tensor, metric)) for layer, tensor in row.items()}
    usual = [value for value in values.values() if value > 0]
    median = statistics.median(usual) if usual else math.nan
    cells = []
    for layer, tensor in row.items():
        value = values[layer]
        severity = marked.get(tensor.name, "")
        title = (
            f"layer {layer}, {kind}: {METRICS[metric]} {number(value)}"
            + (f", {number(value / median)} times the median layer's" if value > 0 else "")
            + (f"; {severity}" if severity else "")
        )
        cells.append(
            f'<a href="#layer-{layer}"><rect class="{_shade(value, median)} {severity}" '
            f'x="{LABEL_WIDTH + layer * width + 0.5:g}" y="{top + 0.5}" '
            f'width="{width - 1:g}" height="{ROW_HEIGHT - 1}">'
            f"<title>{escape(title)}</title></rect></a>"
        )
    label = f'<text class="kind" x="{LABEL_WIDTH - 8}" y="{top + 13}">{escape(kind)}</text>'
    return label + "".join(cells)


def _shade(value: float, median: float) -> str:
    """CSS class: `u0` to `u5` for the median and up, `d1` to `d5` for below, `none`."""
    if not (value > 0 and median > 0):
        return "none"
    octaves = math.log2(value / median)
    step = bisect_right(STEPS, abs(octaves))
    return f"{'u' if octaves >= 0 or not step else 'd'}{step}"


def _legend() -> str:
    edges = [f"{2**octaves:.2g}" for octaves in STEPS]
    shades = [*(f"d{step}" for step in range(5, 0, -1)), *(f"u{step}" for step in range(6))]
    boxes = "".join(f'<span class="box {shade}"></span>' for shade in shades)
    return (
        f'<p class="legend">1/{edges[-1]} {boxes} {edges[-1]} times the median layer '
        '<span class="box corrupt"></span> corrupt <span class="box suspicious"></span> '
        "suspicious. A cell leads to its layer.</p>"
    )
