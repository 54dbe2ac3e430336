"""Whether an answer is the file that was asked for, judged before a byte of it is kept."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from unshard.download.response import InterruptedTransferError, Response
from unshard.download.url import PresignedTemplate
from unshard.errors import LinkRefusedError, TransferError, UnshardError

HEAD_BYTES = 64
"""Enough of a body to tell a web page from a checkpoint."""

_MAX_ERROR_BODY_BYTES = 4096
_ERROR_CODE = re.compile(rb"<Code>([A-Za-z]{1,64})</Code>")
_ERROR_MESSAGE = re.compile(rb"<(?:Message|Details|AuthenticationErrorDetail)>([^<]{1,512})<")
_SAYS_EXPIRED = re.compile(rb"has expired|not valid in the specified time frame", re.IGNORECASE)
_HAS_EXPIRED = "it has expired"
_IN_WORDS = {
    "ExpiredToken": "the credentials that signed it have expired",
    "TokenRefreshRequired": "the credentials that signed it have expired",
    "InvalidToken": "the credentials that signed it are not valid",
    "InvalidAccessKeyId": "the key that signed it does not exist any more",
    "InvalidKey": "the key that signed it is not known",
    "RequestExpired": _HAS_EXPIRED,
    "RequestTimeTooSkewed": "a clock is wrong",
    "SignatureDoesNotMatch": "its signature is wrong, so some of the link was changed or lost",
    "InvalidSignature": "its signature is wrong, so some of the link was changed or lost",
    "MissingKey": "some of its query is missing",
}
"""What the codes of S3, CloudFront and GCS mean for who holds the link."""

_CODES_OF_BAD_TOKENS = ("ExpiredToken", "InvalidToken", "TokenRefreshRequired", "RequestExpired")
"""S3 answers these with status 400."""

_MARKUP = re.compile(rb"(?:\xef\xbb\xbf)?\s*<(?:!doctype|html|\?xml|error)", re.IGNORECASE)
_CONTENT_RANGE = re.compile(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18})")
_STRONG_ETAG = re.compile(r'"[\x21\x23-\x25\x27-\x3e\x40-\x7e]{1,256}"')
"""Without `?` and `&`: one that repeats the query of the link would be kept in the journal."""


def strong_etag(response: Response) -> str | None:
    """The ETag, if it promises equal bytes: a weak one (`W/`) does not."""
    etag = response.headers.get("ETag", "")
    return etag if _STRONG_ETAG.fullmatch(etag) else None


def content_range(response: Response) -> tuple[int, int, int] | None:
    """(first byte, last byte, size of the whole object) of a 206, or None."""
    match = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", ""))
    return (int(match[1]), int(match[2]), int(match[3])) if match else None


def check_headers(name: str, response: Response) -> int:
    """The length of the body in bytes.

    Raises:
        TransferError: the headers are not those of a file's bytes.
    """
    check_kind(name, response)
    length = response.content_length
    if length is None:
        raise TransferError(f"{name}: the server does not say how long it is")
    is_part = response.status == 200 and "Content-Range" in response.headers
    if is_part and content_range(response) != (0, length - 1, length):
        raise TransferError(f"{name}: the server sends a part of it as if it were all")
    return length


def check_kind(name: str, response: Response) -> None:
    """
    Raises:
        TransferError: the body is a web page, or compressed.
    """
    if response.headers.get("Content-Type", "").lower().startswith("text/html"):
        raise web_page(name)
    if response.headers.get("Content-Encoding", "identity").lower() != "identity":
        raise TransferError(f"{name}: the server sends it compressed, though asked not to")


def checked_head(name: str, chunks: Iterator[bytes | memoryview]) -> bytes:
    """At least `HEAD_BYTES` from the front of `chunks`, or all there are.

    Raises:
        TransferError: as from `check_head`.
    """
    head = b""
    while len(head) < HEAD_BYTES and (chunk := next(chunks, b"")):
        head += chunk
    check_head(name, head)
    return head


def check_head(name: str, head: bytes) -> None:
    """Judge the first `HEAD_BYTES` bytes of the file (all of a shorter one).

    Raises:
        TransferError: a web page, an error document, or no checkpoint under a `.pt` name.
    """
    if _MARKUP.match(head):
        raise web_page(name)
    if name.endswith(".pt") and not head.startswith(b"PK"):
        raise TransferError(
            f"{name}: does not begin like a checkpoint (a zip file, `PK`)",
            hint="is the link for these weights?",
        )


def web_page(name: str) -> TransferError:
    return TransferError(
        f"{name}: the server sent a web page or an error document instead of the file",
        hint="open the link's host in a browser: a login page, or a wrong link?",
    )


@dataclass(frozen=True, slots=True)
class Refusal:
    """An answer that refuses: HTTP status and code, and what they mean for the link."""

    details: str
    reason: str
    is_of_link: bool
    """Surely; else it may be of the file that was asked for alone."""

    def error(self, name: str, template: PresignedTemplate) -> LinkRefusedError:
        """That the link is refused."""
        said = ": ".join(filter(None, (self.details, self.reason)))
        return LinkRefusedError(
            f"{name}: the server refuses the link ({said}){_expiry(template)}",
            hint="get a fresh link and run the same command with it: it continues from here",
        )

    def file_error(self, name: str) -> TransferError:
        """That the file is refused, and others are not."""
        return TransferError(
            f"{name}: the server refuses this one file ({self.details}) and gives others by the "
            "same link",
            hint="is it part of these weights? Object stores say so of a file that does not exist",
        )


def link_refusal(response: Response) -> Refusal | None:
    """What an answer says that refuses the link, for sure or maybe, else None."""
    if response.status not in (400, 401, 403):
        return None
    code, message = _error_document(response)
    if response.status == 400 and code not in _CODES_OF_BAD_TOKENS:
        return None
    reason = _HAS_EXPIRED if _SAYS_EXPIRED.search(message) else _IN_WORDS.get(code, "")
    details = ", ".join(filter(None, (f"HTTP {response.status}", code)))
    return Refusal(details, reason, is_of_link=bool(reason) or response.status != 403)


def refusal(name: str, response: Response, template: PresignedTemplate) -> UnshardError:
    """The error for an answer that is neither 200, 206 nor 416."""
    if refused := link_refusal(response):
        return refused.error(name, template)
    status = response.status
    if status in (408, 429) or status >= 500:
        return InterruptedTransferError(
            f"{name}: the server is busy or failing (HTTP {status})",
            retry_after_s=_seconds_to_wait(response.headers.get("Retry-After", "")),
        )
    if status in (404, 410):
        return TransferError(
            f"{name}: the server has no such file (HTTP {status}) at {template}",
            hint="is it part of these weights, and the address theirs?",
        )
    if 300 <= status < 400:
        return TransferError(
            f"{name}: the server redirects elsewhere (HTTP {status})",
            hint="a presigned link answers with the file itself: is this one?",
        )
    return TransferError(f"{name}: the server answers HTTP {status}")


def _seconds_to_wait(retry_after: str) -> float | None:
    """What a Retry-After header asks for, as seconds or as a date (RFC 9110, 10.2.3)."""
    if retry_after.isascii() and retry_after.isdigit():
        return float(retry_after)
    try:
        until = parsedate_to_datetime(retry_after)
    except (ValueError, OverflowError):
        return None
    return max((until.replace(tzinfo=until.tzinfo or UTC) - datetime.now(UTC)).total_seconds(), 0)


def _expiry(template: PresignedTemplate) -> str:
    end = template.expires_at()
    if end is None:
        return ""
    if end <= datetime.now(UTC):
        return f", which expired on {end:%Y-%m-%d at %H:%M} UTC"
    return f", though it should be good until {end:%Y-%m-%d %H:%M} UTC: mangled or withdrawn"


def _error_document(response: Response) -> tuple[str, bytes]:
    """Code and message of an S3, CloudFront, GCS or Azure error document. Only the code, which
    is letters, may be shown: the rest may repeat the signature."""
    body = b""
    try:
        for chunk in response.chunks:
            body += chunk
            if len(body) >= _MAX_ERROR_BODY_BYTES:
                break
    except InterruptedTransferError:
        return "", b""  # the status alone says enough
    code = _ERROR_CODE.search(body[:_MAX_ERROR_BODY_BYTES])
    message = _ERROR_MESSAGE.search(body[:_MAX_ERROR_BODY_BYTES])
    return code[1].decode() if code else "", message[1] if message else b""
