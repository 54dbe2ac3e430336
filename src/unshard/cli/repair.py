"""`unshard verify --repair`: fetch again what a manifest does not confirm."""

from __future__ import annotations

import os
import sys

from unshard import releases
from unshard.cli.download import URL_VARIABLE
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
    if url == "-":
        url = sys.stdin.readline().strip()
    elif not url:
        url = os.environ.get(URL_VARIABLE, "")
    elif url in releases.PUBLIC:
        url = releases.PUBLIC[url].url
    if not url:
        raise UsageError(
            "no URL to repair from",
            hint=f"give it in single quotes, as `-` with stdin, or in {URL_VARIABLE}",
        )
    return url
