"""A manifest that lies behind a URL, as metaseq's CSVs do."""

from __future__ import annotations

import time
from collections.abc import Callable
from urllib.parse import urljoin

from unshard.download.content import check_kind, refusal
from unshard.download.retry import RetryPolicy
from unshard.download.transport import InterruptedTransferError, Response, Transport
from unshard.download.url import PresignedTemplate
from unshard.errors import TransferError, UsageError
from unshard.manifest import MAX_MANIFEST_BYTES, Manifest, decode_manifest

DEFAULT_RETRY = RetryPolicy(attempts=4, longest_delay_s=8)
_STALL_TIMEOUT_S = 30.0
_MAX_REDIRECTS = 3
"""GitHub's addresses of raw files redirect once."""
_REDIRECTS = (301, 302, 303, 307, 308)


def fetch_manifest(
    address: str,
    *,
    retry: RetryPolicy = DEFAULT_RETRY,
    sleep: Callable[[float], None] = time.sleep,
) -> Manifest:
    """The manifest behind the URL `address`, whose query no error and no `source` shows.

    Raises:
        UsageError: `address` is no URL of a file.
        TransferError, LinkRefusedError: the server does not give it.
        FormatError: as `read_manifest`, also for one of more than `MAX_MANIFEST_BYTES`.
    """
    link, failures = PresignedTemplate.parse(address), 0
    with Transport(max_connections=1, stall_timeout_s=_STALL_TIMEOUT_S) as transport:
        while True:
            try:
                return decode_manifest(_content(transport, link), str(link))
            except InterruptedTransferError as error:
                failures += 1
                if failures >= retry.attempts:
                    raise TransferError(
                        f"{link}: given up after {failures} attempts: {error.message}"
                    ) from None
                sleep(retry.delay_s(failures, error.retry_after_s))


def _content(transport: Transport, link: PresignedTemplate) -> bytes:
    """What lies there, up to one byte more than a manifest may have."""
    for _ in range(_MAX_REDIRECTS + 1):
        with transport.get(link, link.name, {}) as response:
            if response.status not in _REDIRECTS:
                return _body(link, response)
            link = _target(link, response)
    raise TransferError(f"{link}: the server redirects without end")


def _body(link: PresignedTemplate, response: Response) -> bytes:
    if response.status != 200:
        raise refusal(link.name, response, link)
    check_kind(link.name, response)
    content = b""
    for chunk in response.chunks:
        content += chunk
        if len(content) > MAX_MANIFEST_BYTES:
            break
    return content


def _target(link: PresignedTemplate, response: Response) -> PresignedTemplate:
    """Where an answer redirects to; never from TLS to none."""
    here, location = link.origin + link.path_of(link.name), response.headers.get("Location", "")
    try:
        target = PresignedTemplate.parse(urljoin(here, location))
    except (UsageError, ValueError):
        target = None
    if target is None or (link.origin.startswith("https:") > target.origin.startswith("https:")):
        raise TransferError(
            f"{link.name}: the server redirects elsewhere (HTTP {response.status})",
            hint="a login page, or a wrong link?",
        )
    return target
