"""docs/benchmarks.md and its drawings, from benchmarks/results/*.json.

    python tools/benchmarks_page.py

A result is {name, date, machine, runs, program, record, rows: [{scenario, ours, peer, peer_name,
ratio, unit}]}: `ratio` is how many times better ours is than the peer's, whatever the unit; `ours`
and `peer` are null where the record has the ratios alone, in all rows. `record` is the page below
docs/ that says what was measured, `program` what measures it again. benchmarks/owed.json is a list
of {what, program, why}.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from html import escape
from pathlib import Path
from typing import TypedDict

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks/results"
OWED = ROOT / "benchmarks/owed.json"
PAGE = ROOT / "docs/benchmarks.md"
DRAWINGS = ROOT / "docs/benchmarks"

LEFT, WIDTH, BAR, STEP, TOP = 330, 380, 14, 22, 34
HEAD = """# Benchmarks

Written by `tools/benchmarks_page.py` from `benchmarks/results/*.json`; a test holds every figure to
the record that it is from. **Ratios** are how many times better ours is than the peer beside it:
above 1 is better, below 1 is worse, and what is worse stands here as well. Machines were shared, so
ratios carry over and figures do not: run the program on yours. The date is that of the record.
"""
OWED_HEAD = """
## Owed

Not measured, or not in a way that we would stand by:

| what | program | why |
|---|---|---|
"""
STYLE = (
    "text { font: 12px system-ui, sans-serif; fill: #1f2328 } .better { fill: #2563eb } "
    ".worse { fill: #d97706 } line { stroke: #656c76; stroke-dasharray: 4 } "
    "@media (prefers-color-scheme: dark) { text { fill: #f0f6fc } .better { fill: #60a5fa } "
    ".worse { fill: #f59e0b } }"
)


class Row(TypedDict):
    """One comparison."""

    scenario: str
    ours: float | None
    peer: float | None
    peer_name: str
    ratio: float
    unit: str


class Result(TypedDict):
    """One measurement."""

    name: str
    date: str
    machine: str
    runs: str
    program: str
    record: str
    rows: list[Row]


def results() -> dict[str, Result]:
    """By the stem of its file, in the order of names."""
    return {path.stem: json.loads(path.read_text()) for path in sorted(RESULTS.glob("*.json"))}


def drawing(result: Result) -> str:
    """SVG: a bar for each ratio, and a line where ours and the peer are even."""
    rows = result["rows"]
    scale = WIDTH / max(1.5, *(row["ratio"] for row in rows))
    height = TOP + STEP * len(rows)
    even = LEFT + scale
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {LEFT + WIDTH + 50} {height + 6}" '
        f'role="img" aria-label="{escape(result["name"])}: times better than the peer">',
        f"<style>{STYLE}</style>",
        f'<text x="{LEFT}" y="14">times better than the peer</text>',
        f'<line x1="{even:.1f}" y1="{TOP - 10}" x2="{even:.1f}" y2="{height}"/>',
    ]
    for number, row in enumerate(rows):
        y, width = TOP + STEP * number, row["ratio"] * scale
        kind = "better" if row["ratio"] >= 1 else "worse"
        parts += [
            f'<text x="{LEFT - 8}" y="{y + 11}" text-anchor="end">{escape(row["scenario"])}</text>',
            f'<rect class="{kind}" x="{LEFT}" y="{y}" width="{width:.1f}" height="{BAR}"/>',
            f'<text x="{LEFT + width + 5:.1f}" y="{y + 11}">{row["ratio"]:.2f}</text>',
        ]
    return "\n".join([*parts, "</svg>"]) + "\n"


def section(stem: str, result: Result) -> Iterator[str]:
    yield f"\n## {result['name']}\n\n![Ratios](benchmarks/{stem}.svg)\n\n"
    program = f"`{result['program']}`, " if result["program"] else ""
    yield f"{result['date']}, {program}{result['machine']}. Runs: {result['runs']}. "
    yield f"[Record]({result['record']}).\n\n"
    rows = result["rows"]
    if all(row["ours"] is None for row in rows):
        yield "| | ratio | peer is |\n|---|---|---|\n"
    else:
        yield "| | ours | peer | | ratio | peer is |\n|---|---|---|---|---|---|\n"
    for row in rows:
        figures = ""
        if row["ours"] is not None:
            figures = f"{row['ours']:g} | {row['peer']:g} | {row['unit']} | "
        yield f"| {row['scenario']} | {figures}{row['ratio']:.2f} | {row['peer_name']} |\n"


def page() -> str:
    """All of docs/benchmarks.md."""
    parts = [HEAD]
    for stem, result in results().items():
        parts += section(stem, result)
    parts.append(OWED_HEAD)
    for each in json.loads(OWED.read_text()):
        program = f"`{each['program']}`" if each["program"] else ""
        parts.append(f"| {each['what']} | {program} | {each['why']} |\n")
    return "".join(parts)


def main() -> None:
    """Writes all of it."""
    DRAWINGS.mkdir(exist_ok=True)
    PAGE.write_text(page())
    for stem, result in results().items():
        (DRAWINGS / f"{stem}.svg").write_text(drawing(result))


if __name__ == "__main__":
    main()
