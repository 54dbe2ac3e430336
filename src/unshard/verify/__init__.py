"""Whether the files of a folder are what a manifest, or what is known of OPT, says."""

from unshard.verify.against_manifest import Difference, VerifyReport, verify
from unshard.verify.known_parts import PartsReport, verify_parts
from unshard.verify.new_manifest import manifest_of

__all__ = [
    "Difference",
    "PartsReport",
    "VerifyReport",
    "manifest_of",
    "verify",
    "verify_parts",
]
