"""`unshard verify`: compare a folder with a manifest, and with what is known of OPT."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import click

from unshard.cli import display
from unshard.errors import UsageError
from unshard.library.verification import Findings, verify_folder
from unshard.manifest import Manifest, sum_lines, read_manifest
from unshard.releases import KNOWN_PARTS
from unshard.verify import PartsReport, VerifyReport

MANIFEST_PATTERNS = ("*md5*.csv", "*.md5", "checklist.chk")


@click.command(name="verify")
@click.argument("directory", type=click.Path(path_type=Path))
@click.option(
    "--manifest",
    "manifest_path",
    type=click.Path(path_type=Path),
    help="Meta's CSV, md5sum or BSD md5 lines. Default: the one *md5*.csv, *.md5 or "
    "checklist.chk in DIRECTORY.",
)
@click.option("--workers", type=click.IntRange(min=1), help="Files at once. Default: all cores.")
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
@click.option(
    "--export", is_flag=True, help="Hash nothing: print the manifest as `md5sum -c` reads it."
)
def command(
    directory: Path,
    manifest_path: Path | None,
    workers: int | None,
    as_json: bool,
    export: bool,
) -> None:
    """Hash the files in DIRECTORY and name every one that the manifest does not confirm.

    OPT's tokenizer files need no manifest. Without one, the eight consolidated parts of
    OPT-175B are looked up in every set of md5s that is known of them.

    Exit code 3 when a file differs or is missing. Files that no manifest names are listed
    and do no harm.
    """
    if not directory.is_dir():
        raise UsageError(f"{directory}: no such folder")
    path = manifest_path or _only_manifest(directory)
    manifest = read_manifest(path) if path else None
    if export:
        click.echo(_export(directory, manifest), nl=False)
        return
    with display.progress() as progress:
        findings = verify_folder(directory, manifest, workers=workers, progress=progress)
    if as_json:
        click.echo(json.dumps(_describe(findings), indent=2))
    else:
        _print(findings)
    problem = findings.problem()
    if problem:
        raise problem


def _export(directory: Path, manifest: Manifest | None) -> str:
    if manifest is None:
        raise UsageError(f"{directory}: has no manifest", hint="say which with --manifest FILE")
    return sum_lines(manifest)


def _only_manifest(directory: Path) -> Path | None:
    found = sorted(path for pattern in MANIFEST_PATTERNS for path in directory.glob(pattern))
    if len(found) > 1:
        names = ", ".join(path.name for path in found)
        raise UsageError(
            f"{directory}: has {names}", hint="say which manifest with --manifest FILE"
        )
    return found[0] if found else None


def _describe(findings: Findings) -> dict[str, Any]:
    """The manifest's report, and the other two beside it, for programs."""
    files, tokenizer, parts = (
        dataclasses.asdict(report) if report else None
        for report in (findings.files, findings.tokenizer, findings.parts)
    )
    is_right = findings.problem() is None
    return {"is_right": is_right, **(files or {}), "tokenizer": tokenizer, "parts": parts}


def _print(findings: Findings) -> None:
    verified = findings.tokenizer.matching if findings.tokenizer else ()
    if findings.files:
        _print_files(findings.files, but=verified)
    if findings.parts:
        _print_parts(findings.parts, harmless=findings.damage is None)
    if findings.tokenizer:
        extra = findings.tokenizer.extra
        _print_files(findings.tokenizer, but=extra if findings.files or findings.parts else ())


def _print_files(report: VerifyReport, but: tuple[str, ...]) -> None:
    for difference in report.different:
        click.echo(f"different  {difference.name}  {difference.problem}")
    for name in report.missing:
        click.echo(f"missing    {name}")
    for name in report.extra:
        if name not in but:
            click.echo(f"extra      {name}")
    for names in report.shared_digests:
        click.echo(f"suspect    {', '.join(names)}  have one and the same md5 in the manifest:")
        click.echo("           different files never do, so at most one of these lines is right")
    click.echo(f"{len(report.matching)} files match {report.manifest} ({report.num_bytes} bytes)")


def _print_parts(report: PartsReport, harmless: bool) -> None:
    for difference in report.unreadable:
        click.echo(f"different  {difference.name}  {difference.problem}")
    for name, md5 in report.unknown.items():
        click.echo(f"unknown    {name}  md5 {md5}")
    for parts in dict.fromkeys(report.known.values()):
        count = sum(each == parts for each in report.known.values())
        issues = ", ".join(f"#{number}" for number in parts.issues)
        click.echo(f"{count} parts have md5s {parts.origin} (metaseq {issues})")
        click.echo(f"  written by {parts.script}")
    if report.known:
        return
    click.echo(f"no part has an md5 of the {len(KNOWN_PARTS)} sets known of OPT-175B")
    if harmless:
        click.echo("  no harm by itself: md5s depend on the script and the torch that wrote the")
        click.echo("  files; `unshard fingerprint` depends on the weights alone (docs/md5.md)")
