"""From a presigned URL to verified files: resumable, parallel, secrets kept."""

from unshard.download.link import Link
from unshard.download.link_sources import CommandSource, FileSource
from unshard.download.manifest import fetch_manifest
from unshard.download.pool import DownloadReport, download
from unshard.download.retry import RetryPolicy
from unshard.download.tokenizer import fetch_tokenizer
from unshard.download.url import PresignedTemplate

__all__ = [
    "CommandSource",
    "DownloadReport",
    "FileSource",
    "Link",
    "PresignedTemplate",
    "RetryPolicy",
    "download",
    "fetch_manifest",
    "fetch_tokenizer",
]
