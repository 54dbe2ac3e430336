"""`unshard download`: fetch and verify the files behind a presigned URL."""

from __future__ import annotations

import dataclasses
import json
import os
import sys
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import click

from unshard import releases
from unshard.cli import display, link_options
from unshard.cli.deferred import deferred
from unshard.cli.quantities import ByteCount
from unshard.cli.streaming_options import is_wanted, streaming_options
from unshard.download import DownloadReport, Link, PresignedTemplate, download
from unshard.download.pool import DEFAULT_MAX_CONNECTIONS
from unshard.errors import UsageError
from unshard.manifest import Manifest, read_manifest

URL_VARIABLE = "UNSHARD_URL"
download_and_reshard = deferred("unshard.cli.streaming", "download_and_reshard")
"""Plain downloads need no numpy."""


@click.command(name="download")
@click.argument("url", required=False)
@click.argument("directory", required=False, type=click.Path(path_type=Path))
@click.option(
    "--manifest",
    "manifest_path",
    type=click.Path(path_type=Path),
    help="md5s by Meta's CSV, md5sum or BSD md5 lines: names the files and verifies them.",
)
@click.option("--parts", type=click.IntRange(min=1), help="Number of files of a URL with a `*`.")
@click.option(
    "--shards",
    type=click.IntRange(min=1),
    help="Number of files of each part, of a URL with {part} and {shard}.",
)
@click.option(
    "--max-connections",
    type=click.IntRange(min=1, max=64),
    default=DEFAULT_MAX_CONNECTIONS,
    show_default=True,
    help="Files fetched at the same time.",
)
@click.option(
    "--max-rate",
    type=ByteCount(),
    help="Bytes per second at most, over all connections: 50MB, 800kB.",
)
@link_options.url_command
@link_options.url_file
@streaming_options
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
def command(
    url: str | None,
    directory: Path | None,
    manifest_path: Path | None,
    parts: int | None,
    shards: int | None,
    max_connections: int,
    max_rate: int | None,
    url_command: str | None,
    url_file: Path | None,
    as_json: bool,
    **reshard: Any,
) -> None:
    """Fetch the files behind URL into DIRECTORY (default: here) and verify them.

    URL may also be the name of a public release, opt-125m to opt-66b; the default DIRECTORY
    is then a new one of that name.

    The last part of the URL stands for the file names: `stubbed.pt` for any name, or a
    pattern such as `reshard-model_part-*.pt` or `model_part-{part}-shard{shard}.pt`.

    A URL in the arguments shows in the list of processes. To keep it out, give `-` and pass
    it on stdin, or leave it away and set UNSHARD_URL.

    Run the same command again after a cut, a crash or with a fresh link: it continues where
    it stopped, and files that are there and verified are not fetched again. With
    --url-command or --url-file it goes on by itself; they also give the first link where URL
    is left away.
    """
    source = link_options.source(url_command, url_file)
    template, directory = link_options.begin(source, url, directory, _url_and_directory)
    files = _files(template, manifest_path, parts, shards)
    link = Link(template, source)
    if is_wanted(reshard):
        rates = {"max_connections": max_connections, "max_rate": max_rate}
        download_and_reshard(link, files, directory, reshard, as_json=as_json, **rates)
        return
    with display.progress() as progress:
        report = download(
            link,
            files,
            directory,
            max_connections=max_connections,
            max_rate=max_rate,
            progress=progress,
        )
    if as_json:
        click.echo(json.dumps(dataclasses.asdict(report), indent=2))
    else:
        click.echo(_summary(report))


def _url_and_directory(url: str | None, directory: Path | None) -> tuple[str, Path]:
    from_environment = os.environ.get(URL_VARIABLE)
    if url == "-":
        if not (line := sys.stdin.readline().strip()):
            raise UsageError("no URL on stdin", hint="pipe the link in, on one line")
        return line, directory or Path()
    if from_environment and directory is None and (url is None or "://" not in url):
        return from_environment, Path(url or ".")
    if url is None:
        raise UsageError(
            "no URL", hint=f"give it in single quotes, as `-` with stdin, or in {URL_VARIABLE}"
        )
    if public := releases.PUBLIC.get(url):
        return public.url, directory or Path(url)
    if "://" not in url and directory is None:
        raise UsageError(
            f"{URL_VARIABLE} is not set, and {url!r} is no URL",
            hint=_instead_of(url),
        )
    return url, directory or Path()


def _instead_of(name: str) -> str:
    if alike := get_close_matches(name.lower(), releases.PUBLIC, n=1, cutoff=0.9):
        return f"did you mean {alike[0]}?"
    return (
        "give the link in single quotes, as `-` with stdin, or in that variable; or one "
        f"of {', '.join(releases.PUBLIC)}"
    )


def _files(
    template: PresignedTemplate, manifest_path: Path | None, parts: int | None, shards: int | None
) -> Manifest | Sequence[str]:
    """Which files to fetch: the manifest's, the parts asked for, or a known release's."""
    if manifest_path and (parts or shards):
        raise UsageError("--manifest names the files already; leave --parts and --shards away")
    if manifest_path:
        return read_manifest(manifest_path)
    if parts := parts or _public_parts(template):
        return template.names(parts, shards)
    if release := releases.BY_TEMPLATE_NAME.get(template.name):
        click.echo(
            f"no --manifest: fetching the {len(release.file_names)} files of {release.name}, "
            "with nothing to verify them against",
            err=True,
        )
        return release.file_names
    if template.is_pattern:
        raise UsageError(
            f"{template}: how many files?",
            hint="give --manifest FILE or --parts NUMBER"
            + (" and --shards NUMBER" if template.has_shards else ""),
        )
    return [template.name]


def _public_parts(template: PresignedTemplate) -> int | None:
    """How many files a pattern of a public release stands for."""
    num_parts = {release.url: release.num_parts for release in releases.PUBLIC.values()}
    return num_parts.get(str(template)) if template.is_pattern else None


def _summary(report: DownloadReport) -> str:
    verified = "all verified" if report.is_verified else "sizes checked, no digests to verify"
    if not report.fetched:
        return f"{report.directory}: all {len(report.kept)} files are here; {verified}"
    total = len(report.fetched) + len(report.kept)
    rate = report.received_bytes / max(report.elapsed_s, 1e-9) / 1e6
    return (
        f"{report.directory}: {len(report.fetched)} of {total} files fetched; "
        f"{verified} ({report.received_bytes} bytes in {report.elapsed_s:.1f} s, {rate:.0f} MB/s)"
    )
