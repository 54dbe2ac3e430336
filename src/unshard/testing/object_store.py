"""A CDN on the loopback that behaves like the one that serves presigned URLs, and misbehaves
on demand.

    with FakeObjectStore(folder) as store:
        store.inject(Fault(cut_after=1000), file="weights.pt", times=3)
        template = PresignedTemplate.parse(store.presigned_url())
        download(template, ["weights.pt"], target)
        assert [r.status for r in store.requests] == [200, 206, 206, 206]
"""

from __future__ import annotations

import hashlib
import hmac
import io
import os
import re
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Self
from urllib.parse import parse_qs, unquote

from unshard.manifest import file_name_problem
from unshard.testing.object_server import Answer, ObjectServer, Request

HTML_PAGE = b"<!DOCTYPE html>\n<html><body><h1>Please log in</h1></body></html>\n"
_ERROR_DOCUMENT = (
    '<?xml version="1.0" encoding="UTF-8"?><Error><Code>{}</Code><Message>{}</Message></Error>'
)
_RANGE = re.compile(r"bytes=(\d+)-(\d*)")


@dataclass(frozen=True, slots=True)
class Fault:
    """How to misbehave for one request; several fields may be set together."""

    status: int | None = None
    """Answer with this status (403, 404, 429, 500, 503, …) and no file."""
    code: str | None = None
    """With `status`: the code in the error document."""
    retry_after_s: int | None = None
    """With `status`: a Retry-After header."""
    cut_after: int | None = None
    """Close the connection after so many bytes of the body."""
    stall_after: int | None = None
    """Send so many bytes of the body, then nothing more; the connection stays open."""
    html: bool = False
    """200 with a login page."""
    ignore_range: bool = False
    """200 with the whole object, whatever range was asked for."""
    ignore_if_range: bool = False
    """The range that was asked for, though the object is another one by now."""
    wrong_bytes: bool = False
    """The last byte of the object is not the right one."""
    wrong_range: bool = False
    """A 206 whose bytes lie one too early, as its Content-Range says."""
    changed_etag: bool = False
    """The same bytes under another ETag."""
    no_etag: bool = False
    """No ETag, as some proxies do."""
    md5_etag: bool = False
    """An ETag that is the MD5 of the object, as S3's are."""
    gzip: bool = False
    """Claims `Content-Encoding: gzip`."""


@dataclass(frozen=True, slots=True)
class LoggedRequest:
    """One request and its answer. `query` is exactly what came over the wire; `sent_bytes`
    is how much of the body was meant to be sent."""

    method: str
    name: str
    query: str
    range: str | None
    if_range: str | None
    status: int
    sent_bytes: int


class FakeObjectStore:
    """Serves the files of `directory` on 127.0.0.1 behind CloudFront-like signed URLs.

    `secret` signs the URLs; with `is_public` no signature is wanted. ETags are strong and
    change when `put` replaces an object. Close it, or use it as a context manager.
    """

    def __init__(
        self,
        directory: str | Path,
        *,
        secret: str = "fake-secret",  # noqa: S107 - guards nothing real
        is_public: bool = False,
    ) -> None:
        self.directory = Path(directory)
        self.requests: list[LoggedRequest] = []
        self._secret = secret.encode()
        self._is_public = is_public
        self._link_generation = 0
        self._faults: list[_Injected] = []
        self._lock = threading.Lock()
        self._server = ObjectServer(self._decide)

    @property
    def origin(self) -> str:
        """`http://127.0.0.1:PORT`"""
        return f"http://127.0.0.1:{self._server.server_port}"

    def presigned_url(
        self, template: str = "stubbed.pt", *, folder: str = "/weights/", expires_in_s: int = 3600
    ) -> str:
        """A link for every file, in the shape of Meta's: `?&` and then the signature.

        Each call signs anew, so two links differ. A negative `expires_in_s` is a dead link.
        """
        address = f"{self.origin}{folder}{template}"
        if self._is_public:
            return address
        expires, key_pair = int(time.time()) + expires_in_s, os.urandom(8).hex().upper()
        signature = self._signature(expires, key_pair)
        return f"{address}?&Expires={expires}&Signature={signature}&Key-Pair-Id={key_pair}"

    def put(self, name: str, content: bytes) -> None:
        """Add or replace an object; answers under way keep the bytes they began with."""
        with tempfile.NamedTemporaryFile(dir=self.directory, delete=False) as file:
            file.write(content)
        Path(file.name).replace(self.directory / name)

    def inject(self, fault: Fault, *, file: str | None = None, times: int | None = 1) -> None:
        """Misbehave for the next `times` requests (None: all) for `file` (None: any).

        Faults wait in line: a later one begins when the earlier ones are used up.
        """
        with self._lock:
            self._faults.append(_Injected(fault, file, times))

    def heal(self) -> None:
        """Forget all faults that wait."""
        with self._lock:
            self._faults.clear()

    def end_silence(self) -> None:
        """Cut the connections that stall."""
        self._server.end_silence()

    def expire_links(self) -> None:
        """Refuse every link that was given out so far."""
        with self._lock:
            self._link_generation += 1

    def close(self) -> None:
        """Stop at once; answers under way are cut."""
        self._server.stop()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()

    def _decide(self, request: Request) -> Answer:
        path, _, query = request.target.partition("?")
        name = unquote(path.rpartition("/")[2])
        answer = self._answer(name, query, request, self._next_fault(name))
        logged = LoggedRequest(
            request.method,
            name,
            query,
            request.range,
            request.if_range,
            answer.status,
            answer.sent_bytes,
        )
        with self._lock:
            self.requests.append(logged)
        return answer

    def _answer(self, name: str, query: str, request: Request, fault: Fault) -> Answer:
        refused = self._refusal(query)
        if refused or fault.status in (401, 403):
            denied = (fault.code or "AccessDenied", "Access denied")
            return _document(fault.status or 403, refused or denied)
        if fault.status:
            error = (fault.code or "InternalError", "Injected")
            return _document(fault.status, error, fault.retry_after_s)
        if fault.html:
            headers = {"Content-Type": "text/html", "Content-Length": str(len(HTML_PAGE))}
            return Answer(200, headers, io.BytesIO(HTML_PAGE), len(HTML_PAGE))
        path = self.directory / name
        if file_name_problem(name) or not path.is_file():
            return _document(404, ("NoSuchKey", "The specified key does not exist."))
        return _object(path.open("rb"), request, fault)

    def _next_fault(self, name: str) -> Fault:
        with self._lock:
            for injected in self._faults:
                if injected.file in (None, name):
                    injected.count_down(self._faults)
                    return injected.fault
        return Fault()

    def _refusal(self, query: str) -> tuple[str, str] | None:
        """CloudFront's error code and message when it would refuse `query`."""
        if self._is_public:
            return None
        fields = {key: values[0] for key, values in parse_qs(query).items()}
        for key in ("Expires", "Signature", "Key-Pair-Id"):
            if key not in fields:
                return "MissingKey", f"Missing {key} query parameter or cookie value"
        expires = int(fields["Expires"]) if fields["Expires"].isdigit() else 0
        signature = self._signature(expires, fields["Key-Pair-Id"])
        is_right = hmac.compare_digest(signature, fields["Signature"])
        return None if is_right and expires > time.time() else ("AccessDenied", "Access denied")

    def _signature(self, expires: int, key_pair: str) -> str:
        message = f"{expires} {key_pair} {self._link_generation}".encode()
        return hmac.new(self._secret, message, hashlib.sha256).hexdigest()


@dataclass(slots=True)
class _Injected:
    fault: Fault
    file: str | None
    times: int | None

    def count_down(self, waiting: list[_Injected]) -> None:
        if self.times is not None:
            self.times -= 1
            if self.times <= 0:
                waiting.remove(self)


def _document(status: int, error: tuple[str, str], retry_after_s: int | None = None) -> Answer:
    """An error in CloudFront's XML."""
    body = _ERROR_DOCUMENT.format(*error).encode()
    headers = {"Content-Type": "application/xml", "Content-Length": str(len(body))}
    if retry_after_s is not None:
        headers["Retry-After"] = str(retry_after_s)
    return Answer(status, headers, io.BytesIO(body), len(body))


def _object(file: BinaryIO, request: Request, fault: Fault) -> Answer:
    """The bytes of `file`, or the range of them that was asked for."""
    status = os.fstat(file.fileno())
    size = status.st_size
    version = f"{status.st_ino:x}-{status.st_mtime_ns:x}-{size:x}"
    if fault.md5_etag:
        version = hashlib.md5(file.read(), usedforsecurity=False).hexdigest()
    etag = f'"{version}{"-x" * fault.changed_etag}"'
    headers = {"Content-Type": "binary/octet-stream", "Accept-Ranges": "bytes", "ETag": etag}
    if fault.no_etag:
        del headers["ETag"]
    if fault.gzip:
        headers["Content-Encoding"] = "gzip"
    match = _RANGE.fullmatch(request.range or "")
    is_same = fault.ignore_if_range or request.if_range in (None, etag)
    is_ranged = match and is_same and not fault.ignore_range
    first, last = 0, size - 1
    if match and is_ranged:
        first = int(match[1])
        last = min(int(match[2] or last), last)
        if first > last:
            file.close()
            return Answer(416, {"Content-Range": f"bytes */{size}", "Content-Length": "0"})
        first, last = first - fault.wrong_range, last - fault.wrong_range
        headers["Content-Range"] = f"bytes {first}-{last}/{size}"
    length = last + 1 - first
    headers["Content-Length"] = str(length)
    sent_bytes = min(b for b in (length, fault.cut_after, fault.stall_after) if b is not None)
    body = _spoilt(file) if fault.wrong_bytes else file
    body.seek(first)
    return Answer(
        206 if is_ranged else 200, headers, body, sent_bytes, fault.stall_after is not None
    )


def _spoilt(file: BinaryIO) -> BinaryIO:
    with file:
        content = file.read()
    return io.BytesIO(content[:-1] + bytes([content[-1] ^ 1]))
