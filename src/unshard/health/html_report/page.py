"""The page: verdict, facts, findings, histograms by layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path

from unshard.architectures.layers import split_layer
from unshard.health.findings import Finding, HealthReport, Place
from unshard.health.html_report.histograms import axes_of, cards, escape, number
from unshard.health.statistics import TensorStatistics

MAX_PLACES = 100
"""Coordinates shown per finding."""


def render_page(report: HealthReport, facts: Mapping[str, str]) -> str:
    """The whole report as one HTML document.

    `facts` are lines about the model, by label. Nothing in it or in the report is trusted:
    a name out of a file is text, never markup.
    """
    style = files(__package__).joinpath("style.css").read_text("utf-8")
    title = f"Health of {report.source}"
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        # Nothing may be fetched or run, whatever might have slipped through.
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; '
        "style-src 'unsafe-inline'\">"
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark">'
        f"<title>{escape(title)}</title><style>{style}</style></head><body><main>"
        f"{_header(report)}{_facts(facts)}{_findings(report)}"
        f"{_histograms(report)}</main></body></html>\n"
    )


def _header(report: HealthReport) -> str:
    num_corrupt = len({finding.tensor for finding in report.corrupt})
    num_others = len({finding.tensor for finding in report.findings}) - num_corrupt
    if num_corrupt:
        kind, verdict = "corrupt", f"Corrupt: {_count(num_corrupt, 'tensor')}"
    elif num_others:
        kind, verdict = "suspicious", f"Nothing corrupt, {_count(num_others, 'tensor')} to look at"
    else:
        kind, verdict = "healthy", "Healthy"
    values = sum(tensor.num_elements for tensor in report.tensors)
    return (
        f'<header class="{kind}"><h1>{verdict}</h1><p>{escape(report.source)}</p>'
        f"<p>{values:,} values of {_count(len(report.tensors), 'tensor')} were read, "
        "every further copy too.</p></header>"
    )


def _count(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def _facts(facts: Mapping[str, str]) -> str:
    rows = "".join(f"<dt>{escape(key)}</dt><dd>{escape(facts[key])}</dd>" for key in facts)
    return f'<dl class="facts">{rows}</dl>'


def _findings(report: HealthReport) -> str:
    if not report.findings:
        return (
            "<h2>Findings</h2><p>None: no NaN, no Inf, no outlier, no unwritten part, and copies "
            "agree.</p>"
        )
    return "<h2>Findings</h2>" + "".join(_finding(each) for each in report.findings)


def _finding(finding: Finding) -> str:
    shown = finding.places[:MAX_PLACES]
    hidden = finding.count - len(shown) if len(finding.places) > MAX_PLACES else 0
    more = f"<p>… and {hidden:,} more; <code>--json</code> lists up to 1000.</p>" if hidden else ""
    rows = "".join(_place(place) for place in shown)
    table = (
        '<div class="scroll"><table><thead><tr><th>file</th><th class="n">byte</th>'
        f'<th class="n">index</th><th class="n">value</th></tr></thead><tbody>{rows}</tbody>'
        f"</table></div>{more}"
    )
    return (
        f'<details class="finding {finding.severity}"{" open" if len(shown) <= 20 else ""}>'
        f'<summary><b class="badge">{finding.severity}</b> <code>{escape(finding.tensor)}</code> '
        f"{escape(finding.what)}</summary>{table if rows else ''}</details>"
    )


def _place(place: Place) -> str:
    index = ", ".join(map(str, place.index))
    return (
        f'<tr><td title="{escape(place.path)}">{escape(Path(place.path).name)}</td>'
        f'<td class="n">{place.byte_offset:,}</td><td class="n">[{index}]</td>'
        f'<td class="n">{number(place.value, digits=6)}</td></tr>'
    )


def _histograms(report: HealthReport) -> str:
    by_tensor: dict[str, list[Finding]] = {}
    for finding in report.findings:
        by_tensor.setdefault(finding.tensor, []).append(finding)
    layers: dict[int | None, list[TensorStatistics]] = {}
    for tensor in report.tensors:
        layers.setdefault(split_layer(tensor.name)[0], []).append(tensor)
    axes = axes_of(report.tensors)
    sections = "".join(
        _section(layer, tensors, by_tensor, cards(tensors, axes, report.limits, by_tensor))
        for layer, tensors in layers.items()
    )
    return (
        "<h2>Histograms</h2><p>From the most negative value to the most positive, both axes "
        "logarithmic, the middle bar around zero. A tensor has the same axis in all layers.</p>"
        f'<div class="layers">{sections}</div>'
    )


def _section(
    layer: int | None,
    tensors: Sequence[TensorStatistics],
    findings: Mapping[str, Sequence[Finding]],
    content: str,
) -> str:
    severities = {each.severity for tensor in tensors for each in findings.get(tensor.name, ())}
    worst = "corrupt" if "corrupt" in severities else next(iter(severities), "")
    badge = f' <b class="badge">{worst}</b>' if worst else ""
    name, anchor = (
        ("Outside the layers", "root")
        if layer is None
        else (
            f"Layer {layer}",
            f"layer-{layer}",
        )
    )
    is_open = " open" if worst or layer is None else ""
    return (
        f'<details class="layer {worst}" id="{anchor}"{is_open}><summary>{name}{badge}</summary>'
        f"{content}</details>"
    )
