"""`unshard plan URL|SRC`: what is to come, before anything is spent on it."""

from __future__ import annotations

import glob
import json
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

import click

from unshard import releases
from unshard.cli import release_files, source_url
from unshard.cli.json_values import json_value
from unshard.cli.plan_report import report_lines
from unshard.cli.quantities import ByteCount
from unshard.download import PresignedTemplate
from unshard.errors import LinkRefusedError, UsageError
from unshard.library.planning import plan_checkpoint, plan_link

MANY_FILES = 100
"""Asking for so many sizes takes a while."""


@click.command(name="plan")
@click.argument("target", metavar="URL|SRC", required=False)
@click.option(
    "--manifest",
    "manifest",
    metavar="FILE|URL",
    help="URL: names the files: Meta's CSV, md5sum's or BSD's lines, JSON.",
)
@release_files.parts_option
@release_files.shards_option
@click.option("--rate", type=ByteCount(), help="URL: bytes per second to reckon with: 50MB, 800kB.")
@click.option(
    "--measure",
    is_flag=True,
    help="URL: measure the rate, for five seconds at most; what comes is thrown away.",
)
@click.option(
    "--tp",
    "tp_size",
    type=click.IntRange(1),
    help="Tensor-parallel parts of a reshard to metaseq.  [default: as the source]",
)
@click.option("--json", "as_json", is_flag=True, help="Print the plan as one JSON object.")
def command(
    target: str | None,
    manifest: str | None,
    parts: int | None,
    shards: int | None,
    rate: int | None,
    measure: bool,
    tp_size: int | None,
    as_json: bool,
) -> None:
    """Say what each later step will take: time, disk and memory of the download, of a reshard and
    of serving; and which machines can hold the model.

    Of a URL (given as to `unshard download`, or the name of a public release) one byte of each
    file is asked for, which tells its size, and the headers of the first file. Of SRC, a
    checkpoint that is here, headers are read.
    """
    if rate is not None and (measure or rate < 1):
        raise click.UsageError("--rate: give a positive one, or --measure it")
    if target is not None and _is_here(target):
        _refuse_unknown(target)
        about_links = (manifest, parts, shards, rate, measure or None)
        if any(value is not None for value in about_links):
            raise click.UsageError(
                "--manifest, --parts, --shards, --rate and --measure go with a URL"
            )
        planned = plan_checkpoint(target, tp_size)
    else:
        template = _template(target)
        names = _names(template, manifest, parts, shards)
        if len(names) >= MANY_FILES:
            click.echo(f"asking for the sizes of {len(names)} files", err=True)
        try:
            planned = plan_link(template, names, rate=rate, measure=measure, tp_size=tp_size)
        except LinkRefusedError as error:
            raise LinkRefusedError(error.message, hint="get a fresh link and plan again") from None
    if as_json:
        click.echo(json.dumps(json_value(planned), indent=2, default=datetime.isoformat))
        return
    for line in report_lines(planned):
        click.echo(line)


def _is_here(target: str) -> bool:
    """Whether it is to be taken for a checkpoint here: a folder may be called like a release."""
    is_address = target == "-" or "://" in target
    return not is_address and (Path(target).exists() or target not in releases.PUBLIC)


def _refuse_unknown(target: str) -> None:
    """Whoever mistypes a release, or names the folder that is to come, gets more of a hint than
    one who mistypes a checkpoint."""
    if Path(target).exists() or glob.has_magic(target):
        return
    hint = source_url.instead_of(target)
    if source_url.from_environment():
        hint = f"leave it away to plan with the link in {source_url.URL_VARIABLE}"
    raise UsageError(f"{target}: no such file or folder, and no public release", hint=hint)


def _template(target: str | None) -> PresignedTemplate:
    """The link that `target` names; what it names goes before UNSHARD_URL."""
    found = source_url.from_argument(target) if target else source_url.from_environment()
    if found is None:
        raise UsageError(
            "no URL and no checkpoint",
            hint=f"{source_url.GIVE_IT}; or name a checkpoint that is here, or a public release",
        )
    return PresignedTemplate.parse(found)


def _names(
    template: PresignedTemplate, manifest: str | None, parts: int | None, shards: int | None
) -> Sequence[str]:
    """As `unshard download` would fetch them; a known release needs no manifest for that."""
    release = releases.BY_TEMPLATE_NAME.get(template.name)
    if release and not (manifest or parts or shards):
        return release.file_names
    return tuple(release_files.files(template, manifest, parts, shards))
