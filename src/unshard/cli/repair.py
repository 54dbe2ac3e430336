"""`unshard verify --repair`: fetch again what a manifest does not confirm."""

from __future__ import annotations

from collections.abc import Callable

from unshard.cli import source_url
from unshard.download import PresignedTemplate, download
from unshard.errors import UsageError
from unshard.manifest import Manifest
from unshard.progress import Progress
from unshard.verify import VerifyReport

Repair = Callable[[VerifyReport, Progress], tuple[str, ...]]
"""Fetches the files that the report calls different or missing, and returns their names.

A file keeps its bytes, wrong as they are, until those that take its place are verified.
Raises as `download` does.
"""


def repairer(manifest: Manifest | None, url: str) -> Repair:
    """What it takes to repair, found before hours of reading.

    Raises:
        UsageError: there is no manifest to go by, or no URL.
    """
    if manifest is None:
        raise UsageError("--repair needs a manifest", hint="say which with --manifest FILE")
    template = PresignedTemplate.parse(_link(url))

    def repair(report: VerifyReport, progress: Progress) -> tuple[str, ...]:
        names = (*(difference.name for difference in report.different), *report.missing)
        if names:
            download(template, manifest.only(names), report.directory, progress=progress)
        return names

    return repair


def _link(url: str) -> str:
    if found := source_url.from_argument(url) if url else source_url.from_environment():
        return found
    raise UsageError("no URL to repair from", hint=source_url.GIVE_IT)
