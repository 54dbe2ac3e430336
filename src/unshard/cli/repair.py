"""`unshard verify --repair`: fetch again what a manifest does not confirm."""

from __future__ import annotations

from unshard.cli import source_url
from unshard.download import PresignedTemplate, download
from unshard.errors import UsageError
from unshard.manifest import Manifest
from unshard.progress import Progress
from unshard.verify import VerifyReport


def repair(
    report: VerifyReport | None, manifest: Manifest | None, url: str, progress: Progress
) -> tuple[str, ...]:
    """Fetch the files that `report` calls different or missing; their names.

    A file keeps its bytes, wrong as they are, until those that take their place are verified.

    Raises:
        UsageError: there is no manifest to go by, or no URL.
        UnshardError: as `download`.
    """
    if report is None or manifest is None:
        raise UsageError("--repair needs a manifest", hint="say which with --manifest FILE")
    template = PresignedTemplate.parse(_link(url))
    names = (*(difference.name for difference in report.different), *report.missing)
    if names:
        download(template, manifest.only(names), report.directory, progress=progress)
    return names


def _link(url: str) -> str:
    if found := source_url.from_argument(url) if url else source_url.from_environment():
        return found
    raise UsageError("no URL to repair from", hint=source_url.GIVE_IT)
