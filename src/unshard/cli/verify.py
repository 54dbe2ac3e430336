"""`unshard verify`: compare a folder with a manifest."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import click

from unshard.cli import display
from unshard.errors import IntegrityError, UsageError
from unshard.manifest import read_manifest
from unshard.verify import VerifyReport, verify

MANIFEST_PATTERNS = ("*md5*.csv", "*.md5")


@click.command(name="verify")
@click.argument("directory", type=click.Path(path_type=Path))
@click.option(
    "--manifest",
    "manifest_path",
    type=click.Path(path_type=Path),
    help="Meta's CSV or md5sum lines. Default: the one *md5*.csv or *.md5 in DIRECTORY.",
)
@click.option("--workers", type=click.IntRange(min=1), help="Files at once. Default: all cores.")
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
def command(
    directory: Path, manifest_path: Path | None, workers: int | None, as_json: bool
) -> None:
    """Hash the files in DIRECTORY and name every one that the manifest does not confirm.

    Exit code 3 when a file differs or is missing. Files that no manifest names are listed
    and do no harm.
    """
    if not directory.is_dir():
        raise UsageError(f"{directory}: no such folder")
    manifest = read_manifest(manifest_path or _only_manifest(directory))
    with display.progress() as progress:
        report = verify(directory, manifest, workers=workers, progress=progress)
    if as_json:
        click.echo(
            json.dumps({"is_right": report.is_right, **dataclasses.asdict(report)}, indent=2)
        )
    else:
        _print(report)
    if not report.is_right:
        raise IntegrityError(
            f"{report.directory}: {len(report.different)} files differ and "
            f"{len(report.missing)} are missing, of {len(manifest)}",
            hint="`unshard download` with the same manifest fetches only these",
        )


def _only_manifest(directory: Path) -> Path:
    found = sorted(path for pattern in MANIFEST_PATTERNS for path in directory.glob(pattern))
    if len(found) == 1:
        return found[0]
    what = ", ".join(path.name for path in found) or f"no {' or '.join(MANIFEST_PATTERNS)}"
    raise UsageError(f"{directory}: has {what}", hint="say which manifest with --manifest FILE")


def _print(report: VerifyReport) -> None:
    for difference in report.different:
        click.echo(f"different  {difference.name}  {difference.problem}")
    for name in report.missing:
        click.echo(f"missing    {name}")
    for name in report.extra:
        click.echo(f"extra      {name}")
    click.echo(f"{len(report.matching)} files match {report.manifest} ({report.num_bytes} bytes)")
