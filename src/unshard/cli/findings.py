"""A health report for people who read."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from unshard.cli.json_values import json_value
from unshard.cli.printable import printable
from unshard.health.findings import Finding, HealthReport, Place
from unshard.progress import shown_bytes

MAX_LINES = 20
"""Coordinates shown per finding; `--json` has more."""


def verdict(report: HealthReport) -> str:
    """The report in one line."""
    if not report.findings:
        return "nothing is wrong: no NaN, no Inf, no outlier, no unwritten part, copies agree"
    num_corrupt = len(report.corrupt)
    num_suspicious = len(report.findings) - num_corrupt
    return f"{num_corrupt} corrupt, {num_suspicious} suspicious"


def health_lines(report: HealthReport) -> Iterator[str]:
    """The verdict, then every finding with its coordinates."""
    values = sum(tensor.num_elements for tensor in report.tensors)
    yield f"health      {verdict(report)}"
    yield (
        f"            {values:,} values of {len(report.tensors)} tensors, "
        f"{shown_bytes(report.num_bytes)} read once, {shown_bytes(report.num_bytes_again)} twice"
    )
    for finding in report.findings:
        yield f"{finding.severity:<11} {finding.tensor}: {printable(finding.what)}"
        yield from _place_lines(finding)


def _place_lines(finding: Finding) -> Iterator[str]:
    by_path: dict[str, list[Place]] = {}
    for place in finding.places[:MAX_LINES]:
        by_path.setdefault(place.path, []).append(place)
    for path, places in by_path.items():
        yield f"            in {printable(path)}"
        for place in places:
            index = ", ".join(map(str, place.index))
            yield f"              byte {place.byte_offset:>12}  [{index}] = {place.value:g}"
    if len(finding.places) > MAX_LINES:
        yield f"            … and {finding.count - MAX_LINES:,} more"


def health_json(report: HealthReport) -> dict[str, Any]:
    """All of the report for programs."""
    return {
        "is_healthy": report.is_healthy,
        "num_bytes": report.num_bytes,
        "num_bytes_again": report.num_bytes_again,
        "findings": json_value(report.findings),
        "tensors": [
            {
                **json_value(tensor),
                "dtype": tensor.dtype.name,
                "limits": json_value(report.limits[tensor.name]),
            }
            for tensor in report.tensors
        ],
    }
