"""`unshard download`: fetch and verify the files behind a presigned URL."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from unshard import releases
from unshard.cli import display, link_options, release_files, source_url
from unshard.cli.download_report import described, summary
from unshard.cli.quantities import ByteCount
from unshard.cli.stderr import events_option
from unshard.cli.streaming_options import is_wanted, streaming_options
from unshard.download import Link, download
from unshard.download.pool import DEFAULT_MAX_CONNECTIONS
from unshard.errors import UsageError
from unshard.library.deferred import deferred

download_and_reshard = deferred("unshard.cli.streaming", "download_and_reshard")
"""Plain downloads need no numpy."""


@click.command(name="download")
@click.argument("url", required=False)
@click.argument("directory", required=False, type=click.Path(path_type=Path))
@click.option(
    "--manifest",
    "manifest",
    metavar="FILE|URL",
    help="Names the files and what they must hash to: Meta's CSV, md5sum's or BSD's lines, JSON.",
)
@release_files.parts_option
@release_files.shards_option
@click.option(
    "--max-connections",
    type=click.IntRange(min=1, max=64),
    default=DEFAULT_MAX_CONNECTIONS,
    show_default=True,
    help="Connections at most; more than 32 only where they bring more.",
)
@click.option(
    "--max-rate",
    type=ByteCount(),
    help="Bytes per second at most, over all connections: 50MB, 800kB.",
)
@link_options.url_command
@link_options.url_file
@streaming_options
@events_option
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
def command(
    url: str | None,
    directory: Path | None,
    manifest: str | None,
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

    URL may also be the name of a public release, opt-125m to opt-66b or opt-iml-30b; the default
    DIRECTORY is then a new one of that name.

    The last part of the URL stands for the file names: `stubbed.pt` for any name, or a
    pattern such as `reshard-model_part-*.pt` or `model_part-{part}-shard{shard}.pt`.

    A URL in the arguments shows in the list of processes. To keep it out, give `-` and pass
    it on stdin, or leave it away and set UNSHARD_URL.

    Run the same command again after a cut, a crash or with a fresh link: it continues where
    it stopped, and files that are there and verified are not fetched again. With
    --url-command or --url-file it goes on by itself; they also give the first link where URL
    is left away.
    """
    is_resharded = is_wanted(reshard)
    source = link_options.source(url_command, url_file)
    template, directory = link_options.begin(source, url, directory, _url_and_directory)
    files = release_files.files(template, manifest, parts, shards)
    tokenizer = release_files.tokenizer(template, tuple(files), directory)
    link = Link(template, source)
    if is_resharded:
        rates = {"max_connections": max_connections, "max_rate": max_rate}
        download_and_reshard(link, files, directory, tokenizer, reshard, as_json=as_json, **rates)
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
        click.echo(json.dumps(described(report, tokenizer), indent=2))
    else:
        click.echo(summary(report, tokenizer))


def _url_and_directory(url: str | None, directory: Path | None) -> tuple[str, Path]:
    from_environment = source_url.from_environment()
    if from_environment and directory is None and url != "-" and "://" not in (url or ""):
        _refuse_release(url or ".")
        return from_environment, Path(url or ".")
    if url is None:
        raise UsageError("no URL", hint=source_url.GIVE_IT)
    found = source_url.from_argument(url)
    if directory is None and not any(mark in found for mark in ("://", "?")):
        raise UsageError(
            f"{source_url.URL_VARIABLE} is not set, and {url!r} is no URL",
            hint=source_url.instead_of(url),
        )
    return found, directory or Path(url if url in releases.PUBLIC else ".")


def _refuse_release(folder: str) -> None:
    """Beside a link in the environment, a release's name is most likely no folder's."""
    if (meant := source_url.release_like(folder)) and (
        folder == meant or not Path(folder).exists()
    ):
        link = source_url.URL_VARIABLE
        raise UsageError(
            f"{folder}: the release {meant}, or a folder for the link in {link}?",
            hint=f"`./{folder}` is the folder; for the release, `unset {link}` and give {meant}",
        )
