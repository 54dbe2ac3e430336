"""Reading a manifest in any of its forms."""

from __future__ import annotations

from pathlib import Path

from unshard.errors import FormatError, UsageError
from unshard.manifest.contents import Manifest
from unshard.manifest.json_form import parse_json_form
from unshard.manifest.lines import parse_lines

MAX_MANIFEST_BYTES = 16 * 2**20
"""Far above any real manifest; a larger file was given by mistake."""

MANIFEST_PATTERNS = ("*md5*.csv", "*.md5", "*.sha256", "manifest.json", "checklist.chk")
"""What manifests are called that lie beside their files."""


def read_manifest(path: str | Path) -> Manifest:
    """The manifest in the file `path`: our JSON, Meta's CSV, or lines of md5sum, sha256sum
    or their BSD cousins, which may be mixed.

    Raises:
        UsageError: there is no such file, or it cannot be read.
        FormatError: entries are malformed, a name comes twice or would leave its folder. The
            first ten such entries are named, all are counted.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_MANIFEST_BYTES + 1)
    except OSError as error:
        raise UsageError(f"{path}: cannot read the manifest: {error.strerror}") from error
    return decode_manifest(raw, str(path))


def decode_manifest(raw: bytes, source: str) -> Manifest:
    """The manifest in the bytes `raw`; of a longer one, more than `MAX_MANIFEST_BYTES` of them.

    Raises:
        FormatError: as in `read_manifest`.
    """
    if len(raw) > MAX_MANIFEST_BYTES:
        raise FormatError(source, f"larger than {MAX_MANIFEST_BYTES} bytes: not a manifest")
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise FormatError(source, f"byte {error.start} is not UTF-8: not a manifest") from error
    return parse_manifest(text, source)


def parse_manifest(text: str, source: str) -> Manifest:
    """The manifest written in `text`; `source` is what errors call it.

    Raises:
        FormatError: as in `read_manifest`.
    """
    is_json = text.lstrip().startswith("{")
    entries = parse_json_form(text, source) if is_json else parse_lines(text)
    return entries.manifest(source)
