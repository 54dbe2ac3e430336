"""A drawing of benchmarks/serve.py's figures: how many times better ours is than each best peer."""

from __future__ import annotations

from collections.abc import Iterator

BAR, GAP, LEFT, WIDTH = 14, 22, 230, 420
LESS_IS_BETTER = ("first", "cold", "rss")
COLOURS = ("#2563eb", "#93c5fd")


def plot(results: dict[str, dict[str, dict[str, float]]], ours: str) -> str:
    """SVG: for each model and case a bar with the native kernels and one without, longer is
    better, a line where ours and the best peer are even."""
    groups = list(_groups(results, ours))
    longest = max([2.0, *(value for _, values in groups for value in values)])
    scale = WIDTH / longest
    height = GAP * 2 + len(groups) * (2 * BAR + GAP)
    of_two = any(len(values) > 1 for _, values in groups)
    kinds = "native, torch-only" if of_two else "native"
    parts = [f'<text x="{LEFT}" y="16">times better than the best peer ({kinds})</text>']
    for number, (title, values) in enumerate(groups):
        top = GAP * 2 + number * (2 * BAR + GAP)
        parts.append(f'<text x="{LEFT - 8}" y="{top + BAR + 4}" text-anchor="end">{title}</text>')
        for place, value in enumerate(values):
            y = top + place * BAR
            parts.append(
                f'<rect x="{LEFT}" y="{y}" width="{value * scale:.1f}" height="{BAR - 2}" '
                f'fill="{COLOURS[place]}"/>'
                f'<text x="{LEFT + value * scale + 4:.1f}" y="{y + BAR - 4}">{value:.2f}</text>'
            )
    even = LEFT + scale
    parts.append(
        f'<line x1="{even:.1f}" y1="{GAP}" x2="{even:.1f}" y2="{height}" stroke="#555" '
        'stroke-dasharray="4"/>'
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{LEFT + WIDTH + 60}" '
        f'height="{height + GAP}" font-family="sans-serif" font-size="12">'
        '<rect width="100%" height="100%" fill="#fff"/>' + "".join(parts) + "</svg>\n"
    )


def _groups(
    results: dict[str, dict[str, dict[str, float]]], ours: str
) -> Iterator[tuple[str, list[float]]]:
    for model, found in results.items():
        titles = [f"{name} / best peer" for name in (ours, f"{ours} torch-only")]
        bars = [found[title] for title in titles if title in found]
        for case in bars[0]:
            values = [bar[case] for bar in bars]
            if case in LESS_IS_BETTER:
                values = [1 / value for value in values]
            yield f"{model} {case}", values
