"""The options of `unshard download` that say where fresh links come from."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import click

from unshard import releases
from unshard.cli.output_path import output_path
from unshard.download import CommandSource, FileSource, PresignedTemplate
from unshard.download.link import LinkSource
from unshard.errors import UsageError

Address = Callable[[str | None, Path | None], tuple[str, Path]]
"""Finds URL and DIRECTORY where no source gives the link."""

url_command = click.option(
    "--url-command",
    metavar="CMD",
    help="Run for a fresh link when one is refused; prints it. No shell: use `sh -c` for one.",
)
url_file = click.option(
    "--url-file",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Read again until it holds a fresh link when one is refused.",
)


def source(url_command: str | None, url_file: Path | None) -> LinkSource | None:
    """The one that was asked for.

    Raises:
        UsageError: both were.
    """
    if url_command is not None and url_file is not None:
        raise UsageError("--url-command and --url-file: give one of them")
    if url_command is not None:
        return CommandSource(url_command)
    return None if url_file is None else FileSource(url_file)


def begin(
    source: LinkSource | None, url: str | None, directory: Path | None, address: Address
) -> tuple[PresignedTemplate, Path]:
    """The first link and the folder: a source gives it where no URL stands in the arguments.

    Raises:
        UsageError: there is no link, or one where the folder belongs.
        LinkRefusedError: as `LinkSource.first`.
    """
    has_url = directory is not None or url == "-" or url in releases.PUBLIC or "://" in (url or "")
    if source and not has_url:
        return source.first(), output_path(url or ".")
    text, directory = address(url, directory)
    return PresignedTemplate.parse(text), output_path(directory)
