"""Manifests: which files there are and what their bytes must hash to (docs/verify.md)."""

from unshard.manifest.contents import Digest, Manifest
from unshard.manifest.export import manifest_json, sum_lines
from unshard.manifest.file_name import PARTIAL_SUFFIX, file_name_problem
from unshard.manifest.reading import (
    MANIFEST_PATTERNS,
    MAX_MANIFEST_BYTES,
    decode_manifest,
    parse_manifest,
    read_manifest,
)

__all__ = [
    "MANIFEST_PATTERNS",
    "MAX_MANIFEST_BYTES",
    "PARTIAL_SUFFIX",
    "Digest",
    "Manifest",
    "decode_manifest",
    "file_name_problem",
    "manifest_json",
    "parse_manifest",
    "read_manifest",
    "sum_lines",
]
