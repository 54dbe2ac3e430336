"""Writing a manifest for others to read."""

from __future__ import annotations

import json

from unshard.manifest.contents import Manifest
from unshard.manifest.json_form import FORMAT, VERSION


def manifest_json(manifest: Manifest) -> str:
    """`manifest` in our own form, one line per file."""
    files = ",\n".join(json.dumps(_file(manifest, name)) for name in manifest)
    return f'{{"format": "{FORMAT}", "version": {VERSION}, "files": [\n{files}\n]}}\n'


def sum_lines(manifest: Manifest) -> str:
    """`manifest` as `md5sum -c` or `sha256sum -c` reads it; no name in a manifest needs its
    escapes."""
    return "".join(f"{digest.value}  {name}\n" for name, digest in manifest.items())


def _file(manifest: Manifest, name: str) -> dict[str, object]:
    digest = manifest[name]
    size = {"size_bytes": manifest.sizes[name]} if name in manifest.sizes else {}
    return {"name": name, **size, "digests": {digest.algorithm: digest.value}}
