"""From a presigned URL to verified files: resumable, parallel, secrets kept."""

from unshard.download.pool import DownloadReport, download
from unshard.download.retry import RetryPolicy
from unshard.download.url import PresignedTemplate

__all__ = ["DownloadReport", "PresignedTemplate", "RetryPolicy", "download"]
