"""Digests of files, of many at once."""

from unshard.digest.files import hash_file, hash_files
from unshard.digest.lanes import has_lanes

__all__ = ["has_lanes", "hash_file", "hash_files"]
