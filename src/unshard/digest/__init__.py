"""Digests of many files at once."""

from unshard.digest.files import hash_files
from unshard.digest.lanes import has_lanes

__all__ = ["has_lanes", "hash_files"]
