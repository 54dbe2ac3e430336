"""What became of a download, for people and for programs."""

from __future__ import annotations

import dataclasses
from typing import Any

from unshard.cli.quantities import format_duration
from unshard.download import DownloadReport
from unshard.progress import shown_bytes


def described(report: DownloadReport, tokenizer: tuple[str, ...] | None) -> dict[str, Any]:
    """The report as JSON values, with the `tokenizer`'s files: None for weights that are not OPT's,
    none where they could not be had."""
    return dataclasses.asdict(report) | {"tokenizer": tokenizer}


def summary(report: DownloadReport, tokenizer: tuple[str, ...] | None) -> str:
    """The same in one line."""
    verified = "all verified" if report.is_verified else "sizes checked, no digests to verify"
    beside = ""
    if tokenizer is not None:
        beside = "; with the tokenizer" if tokenizer else "; no tokenizer beside them"
    if not report.fetched:
        return f"{report.directory}: all {len(report.kept)} files are here; {verified}{beside}"
    total = len(report.fetched) + len(report.kept)
    elapsed_s = report.elapsed_s
    took = format_duration(elapsed_s) if elapsed_s >= 59.5 else f"{elapsed_s:.1f} s"
    rate = shown_bytes(round(report.received_bytes / max(elapsed_s, 1e-9)))
    return (
        f"{report.directory}: {len(report.fetched)} of {total} files fetched; {verified}{beside} "
        f"({shown_bytes(report.received_bytes)} in {took}, {rate}/s)"
    )
