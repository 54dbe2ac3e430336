"""What a download reads of a folder: the manifest, and the journal of an earlier run."""

from __future__ import annotations

import hashlib
import json
import random
import shutil
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from tools.fuzz.refusals import refusal
from tools.fuzz.scratch import scratch

from unshard.download import PresignedTemplate, RetryPolicy, download, shares
from unshard.download.journal import Journal
from unshard.download.partway import boot_id
from unshard.finished import JOURNAL_NAME, remembered
from unshard.manifest import (
    Digest,
    Manifest,
    decode_manifest,
    file_name_problem,
    manifest_json,
    parse_manifest,
    sum_lines,
)
from unshard.manifest.contents import HEX_DIGITS
from unshard.testing.object_store import FakeObjectStore

NAME = "a.bin"
SIZE_BYTES = 4096
ETAG, BOOT = b"@ETAG@", b"@BOOT@"
"""In an input, what this run cannot know when it is written: the object's version, the kernel."""


def manifest(data: bytes) -> None:
    """A manifest that is read is sound, and the same after it was written in either form."""

    def read() -> None:
        found = decode_manifest(data, "x")
        assert found
        for name, digest in found.items():
            assert file_name_problem(name) is None
            assert HEX_DIGITS[digest.algorithm] == len(digest.value)
            int(digest.value, 16)
        assert found.shared_digests() is not None
        assert not set(found.skipped_names()) & set(found)
        ours = parse_manifest(manifest_json(found), "x")
        assert (dict(ours), ours.sizes) == (dict(found), found.sizes)
        assert dict(parse_manifest(sum_lines(found), "x")) == dict(found)

    assert refusal(read, otherwise="x: ").startswith("x: ")


def journal(data: bytes) -> None:
    """Whatever the journal says of half a file and its holes, the file comes out right, and a
    line is believed by all who read it or by none."""
    here = site()
    folder = _half_a_file(here)
    path = folder / JOURNAL_NAME
    path.write_bytes(data.replace(ETAG, here.etag).replace(BOOT, here.boot))
    with Journal(folder) as opened:
        finished = {name: opened.finished(name) for name in remembered(folder)}
        partway = opened.partway(NAME)
        if partway:
            pairs = partway.believed(SIZE_BYTES).pairs
            assert all(0 <= a < b <= SIZE_BYTES for a, b in pairs)
    assert remembered(folder) == finished
    with Journal(folder) as again:
        assert again.partway(NAME) == partway
    template = PresignedTemplate.parse(here.store.presigned_url(NAME))
    retry = RetryPolicy(attempts=2, first_delay_s=0)
    download(template, here.manifest, folder, max_connections=2, retry=retry)
    assert (folder / NAME).read_bytes() == here.content
    assert {each.name for each in folder.iterdir()} == {NAME, JOURNAL_NAME}


@dataclass(frozen=True)
class _Site:
    """One object behind a link, and the folder that it is fetched into."""

    store: FakeObjectStore
    content: bytes
    etag: bytes
    boot: bytes
    folder: Path

    @property
    def manifest(self) -> Manifest:
        return Manifest({NAME: Digest("md5", hashlib.md5(self.content).hexdigest())}, "x")


@cache
def site() -> _Site:
    """That of the whole run."""
    home = scratch().path
    shares.SMALLEST_SHARE_BYTES = 512
    content = random.Random(1).randbytes(SIZE_BYTES)
    (home / "objects").mkdir()
    (home / "objects" / NAME).write_bytes(content)
    status = (home / "objects" / NAME).stat()
    etag = f'"{status.st_ino:x}-{status.st_mtime_ns:x}-{SIZE_BYTES:x}"'
    return _Site(
        FakeObjectStore(home / "objects"),
        content,
        json.dumps(etag)[1:-1].encode(),
        (boot_id() or "").encode(),
        home / "folder",
    )


def _half_a_file(site: _Site) -> Path:
    """A folder in which the middle of the file has not arrived."""
    shutil.rmtree(site.folder, ignore_errors=True)
    site.folder.mkdir()
    quarter = SIZE_BYTES // 4
    with (site.folder / f"{NAME}.partial").open("wb") as file:
        file.write(site.content[:quarter])
        file.seek(3 * quarter)
        file.write(site.content[3 * quarter :])
    return site.folder
