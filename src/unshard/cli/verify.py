"""`unshard verify`: compare a folder with a manifest, and with what is known of OPT."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import click

from unshard.cli import display, manifest_option
from unshard.cli.printable import printable
from unshard.cli.quantities import counted
from unshard.cli.stderr import events_option
from unshard.errors import UsageError
from unshard.library.deferred import deferred
from unshard.library.findings import Findings, FingerprintReport
from unshard.library.verification import verify_folder
from unshard.manifest import MANIFEST_PATTERNS, manifest_json, sum_lines
from unshard.progress import shown_bytes
from unshard.releases import KNOWN_PARTS
from unshard.verify import PartsReport, VerifyReport, manifest_of

repairer = deferred("unshard.cli.repair", "repairer")

EXPORTS = {"json": "sha256", "md5sum": "md5", "sha256sum": "sha256"}
"""The forms of a manifest that are written, and what files are hashed by for them."""


@click.command(name="verify")
@click.argument("directory", type=click.Path(path_type=Path), required=False, metavar="DIRECTORY")
@click.option(
    "--manifest",
    "place",
    metavar="FILE|URL",
    help="Our JSON, Meta's CSV, or lines of md5sum, sha256sum or their BSD cousins. Default: the "
    f"one {', '.join(MANIFEST_PATTERNS[:-1])} or {MANIFEST_PATTERNS[-1]} in DIRECTORY.",
)
@click.option("--force", is_flag=True, help="Hash also what is remembered to be right.")
@click.option(
    "--repair",
    "url",
    is_flag=False,
    flag_value="",
    metavar="[URL]",
    help="Fetch what differs or is missing. `-` reads the URL from stdin; none: UNSHARD_URL.",
)
@events_option
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
@click.option(
    "--export",
    "form",
    type=click.Choice(list(EXPORTS)),
    help="Print a manifest in this form, and do no more: the one of --manifest, or a new one of "
    "the files in DIRECTORY as they are.",
)
def command(
    directory: Path | None,
    place: str | None,
    force: bool,
    url: str | None,
    as_json: bool,
    form: str | None,
) -> None:
    """Hash the files in DIRECTORY and name every one that the manifest does not confirm.

    A file that was found right before and has not changed since, by its size, modification
    time and inode, is not read again without --force.

    OPT's tokenizer files need no manifest. Without one, all that the folder proves by itself is
    checked: the CRC-32s in torch's files, the fingerprint that a reshard recorded in
    unshard.json, and whether the consolidated parts of OPT-175B are of a known set.

    Exit code 3 when a file differs, is damaged or missing. Files that no manifest names are listed
    and do no harm.
    """
    directory = _folder(directory, url)
    if form:
        if force or as_json or url is not None:
            raise UsageError("--export does no more: leave --force, --repair and --json away")
        click.echo(_export(directory, place, form), nl=False)
        return
    found = _only_manifest(directory) if place is None else place
    manifest = None if found is None else manifest_option.read(found)
    repair = None if url is None else repairer(manifest, url)
    with display.progress() as progress:
        findings = verify_folder(directory, manifest, force=force, progress=progress)
        repaired = repair(findings.files, progress) if repair else ()
        if repaired:
            findings = verify_folder(directory, manifest, progress=progress)
    if as_json:
        click.echo(json.dumps(_describe(findings, repaired), indent=2))
    else:
        _print(findings, repaired)
    problem = findings.problem()
    if problem:
        raise problem


def _folder(directory: Path | None, url: str | None) -> Path:
    if directory is None:
        taken = f": --repair took {url} for its URL" if url and Path(url).is_dir() else ""
        raise UsageError(
            f"no DIRECTORY{taken}", hint="name it first: `unshard verify DIRECTORY --repair`"
        )
    if not directory.is_dir():
        raise UsageError(f"{directory}: no such folder")
    return directory


def _export(directory: Path, place: str | None, form: str) -> str:
    if place is not None:
        manifest = manifest_option.read(place)
    else:
        with display.progress() as progress:
            manifest = manifest_of(directory, EXPORTS[form], progress=progress)
    if form == "json":
        return manifest_json(manifest)
    if wrong := [name for name in manifest if manifest[name].algorithm != EXPORTS[form]]:
        raise UsageError(
            f"{manifest.source}: has no {EXPORTS[form]} of {wrong[0]}",
            hint="leave --manifest away to hash the files",
        )
    return sum_lines(manifest)


def _only_manifest(directory: Path) -> Path | None:
    paths = (path for pattern in MANIFEST_PATTERNS for path in directory.glob(pattern))
    found = sorted(path for path in paths if path.is_file())
    if len(found) > 1:
        names = ", ".join(path.name for path in found)
        raise UsageError(
            f"{directory}: has {names}", hint="say which manifest with --manifest FILE"
        )
    return found[0] if found else None


def _describe(findings: Findings, repaired: tuple[str, ...]) -> dict[str, Any]:
    """The manifest's report, and the other two beside it, for programs."""
    files, tokenizer, parts, archives, fingerprint = (
        dataclasses.asdict(report) if report else None
        for report in (
            findings.files,
            findings.tokenizer,
            findings.parts,
            findings.archives,
            findings.fingerprint,
        )
    )
    is_right = findings.problem() is None
    return {
        "is_right": is_right,
        **(files or {}),
        "repaired": repaired,
        "tokenizer": tokenizer,
        "parts": parts,
        "archives": archives,
        "fingerprint": fingerprint,
        "unproved": findings.unproved,
    }


def _print(findings: Findings, repaired: tuple[str, ...]) -> None:
    for name in repaired:
        _say(f"repaired   {name}")
    verified = findings.tokenizer.matching if findings.tokenizer else ()
    if findings.files:
        _print_files(findings.files, but=verified)
    _print_self_checks(findings)
    if findings.parts:
        _print_parts(findings.parts, harmless=findings.damage is None)
    if findings.tokenizer:
        told = any((findings.files, findings.parts, findings.archives, findings.fingerprint))
        _print_files(findings.tokenizer, but=findings.tokenizer.extra if told else ())


def _print_self_checks(findings: Findings) -> None:
    if archives := findings.archives:
        for difference in archives.damaged:
            _say(f"damaged    {difference.name}  {difference.problem}")
        are = "is as it was" if len(archives.sound) == 1 else "are as they were"
        sound, size = counted(len(archives.sound), "torch file"), shown_bytes(archives.num_bytes)
        _say(f"{sound} {are} written, by the CRC-32s stored ({size});")
        _say("  only a manifest tells whether they are the right ones")
    if fingerprint := findings.fingerprint:
        _print_fingerprint(fingerprint)
    for name in findings.unproved:
        _say(f"unproved   {name}  has no checksum, and no manifest names it")


def _print_fingerprint(report: FingerprintReport) -> None:
    if report.is_right:
        _say("the weights are those of the fingerprint in unshard.json:")
        _say(f"  {report.recorded}")
        return
    _say("the weights are not those of the fingerprint in unshard.json:")
    _say(f"  recorded {report.recorded}")
    _say(f"  found    {report.found or 'none: they cannot be read'}")


def _print_files(report: VerifyReport, but: tuple[str, ...]) -> None:
    for difference in report.different:
        _say(f"different  {difference.name}  {difference.problem}")
    for name in report.missing:
        _say(f"missing    {name}")
    for name in report.extra:
        if name not in but:
            _say(f"extra      {name}")
    for name in report.skipped_names:
        _say(f"suspect    {name}  is not in the manifest, though its neighbours are")
    for names in report.shared_digests:
        _say(f"suspect    {', '.join(names)}  have one and the same digest in the manifest:")
        _say("           different files never do, so at most one of these lines is right")
    match = "matches" if len(report.matching) == 1 else "match"
    files = counted(len(report.matching), "file")
    _say(f"{files} {match} {report.manifest} ({_how_known(report)})")


def _how_known(report: VerifyReport) -> str:
    read = f"{shown_bytes(report.num_bytes)} read"
    if not report.remembered:
        return read
    if len(report.remembered) == len(report.matching) and not report.num_bytes:
        return "known from before; --force reads again"
    return f"{read}, {len(report.remembered)} known from before"


def _print_parts(report: PartsReport, harmless: bool) -> None:
    for difference in report.unreadable:
        _say(f"different  {difference.name}  {difference.problem}")
    for name, md5 in report.unknown.items():
        _say(f"unknown    {name}  md5 {md5}")
    for parts in dict.fromkeys(report.known.values()):
        count = sum(each == parts for each in report.known.values())
        issues = ", ".join(f"#{number}" for number in parts.issues)
        _say(f"{count} parts have md5s {parts.origin} (metaseq {issues})")
        _say(f"  written by {parts.script}")
    if report.known:
        return
    _say(f"no part has an md5 of the {len(KNOWN_PARTS)} sets known of OPT-175B")
    if harmless:
        _say("  no harm by itself: md5s depend on the script and the torch that wrote the")
        _say("  files; `unshard fingerprint` depends on the weights alone (docs/md5.md)")


def _say(line: str) -> None:
    """Names of files that lie in the folder may be anything."""
    click.echo(printable(line))
