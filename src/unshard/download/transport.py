"""HTTP: a request, and its answer or what went wrong, in none of the client's own words."""

from __future__ import annotations

import ssl
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Self
from urllib.parse import urlsplit

import urllib3
from urllib3 import exceptions as http_errors

from unshard.download.body import BUFFER_BYTES
from unshard.download.response import InterruptedTransferError, Response
from unshard.download.url import PresignedTemplate
from unshard.download.wire import Wire, connect
from unshard.errors import TransferError

SMALL_REST_BYTES = 4096
"""An error document that nobody wants is read away: that is less than a handshake."""
CONNECT_TIMEOUT_S = 15.0
LEAST_RATE = 100
"""Bytes per second: who brings less for the time of a stall has stalled."""


class Transport:
    """Pools of connections to the hosts of links. Safe to use from many threads.

    `max_connections` counts those to one host.
    """

    def __init__(self, *, max_connections: int, stall_timeout_s: float) -> None:
        self._wire = Wire()
        self._stall_timeout_s = stall_timeout_s
        self._settings = {
            "timeout": urllib3.Timeout(connect=CONNECT_TIMEOUT_S, read=stall_timeout_s),
            "maxsize": max_connections,
            "block": True,
        }
        self._hosts: dict[str, _Host] = {}
        self._lock = threading.Lock()

    @contextmanager
    def get(
        self, template: PresignedTemplate, name: str, headers: Mapping[str, str]
    ) -> Iterator[Response]:
        """Ask for the file `name` of `template` with `headers`.

        Raises:
            InterruptedTransferError: no connection, or one that broke.
            TransferError: the host's certificate is not trusted.
        """
        host = self._host(template.origin)
        headers = {"Accept-Encoding": "identity", "User-Agent": "unshard", **headers}
        with self._wire.asking(template.query):
            raw = host.ask(template.path_of(name), headers)
        try:
            yield Response(raw.status, raw.headers, host.chunks(raw))
        finally:
            if _is_soon_read(raw):
                raw.drain_conn()  # of an empty body too, whose end nobody noticed else
            else:
                raw.close()  # the rest of the body would be read as the next answer
            raw.release_conn()

    @property
    def has_connected(self) -> bool:
        """Whether the host, or the proxy to it, ever accepted a connection."""
        return self._wire.connected

    def abort(self) -> None:
        """End all transfers at once, from another thread; each fails as interrupted."""
        self._wire.abort()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        for host in self._hosts.values():
            host.pool.close()

    def _host(self, origin: str) -> _Host:
        with self._lock:
            if origin not in self._hosts:
                pool, prefix = connect(origin, self._wire, **self._settings)
                self._hosts[origin] = _Host(
                    urlsplit(origin).netloc, pool, prefix, self._stall_timeout_s
                )
            return self._hosts[origin]


@dataclass(frozen=True, slots=True)
class _Host:
    """One origin and the connections to it, or to the proxy before it."""

    name: str
    pool: urllib3.HTTPConnectionPool
    prefix: str
    stall_timeout_s: float

    def ask(self, path: str, headers: Mapping[str, str]) -> urllib3.BaseHTTPResponse:
        try:
            return self.pool.urlopen(
                "GET",
                self.prefix + path,
                headers=headers,
                redirect=False,
                retries=False,
                assert_same_host=False,  # a path has no host, a plain-HTTP proxy another one
                preload_content=False,
                decode_content=False,
            )
        except (http_errors.HTTPError, OSError) as error:
            problem, is_untrusted = _in_words(error), _is_untrusted(error)
        # Outside the handler, so that no context of the error holds the client's own.
        if is_untrusted:
            raise TransferError(
                f"{self.name}: its TLS certificate is not trusted here",
                hint="set SSL_CERT_FILE to the certificates of your network, if it has its own",
            )
        raise InterruptedTransferError(f"{self.name}: {problem}")

    def chunks(self, raw: urllib3.BaseHTTPResponse) -> Iterator[bytes | memoryview]:
        expected, received = raw.length_remaining, 0
        problem = "the connection was cut"
        try:
            for chunk in self._patiently(raw):
                received += len(chunk)
                yield chunk
            if expected is None or received == expected:
                return
        except (http_errors.HTTPError, OSError) as error:
            problem = _in_words(error)
        of_all = "" if expected is None else f" of {expected}"
        raise InterruptedTransferError(
            f"{self.name}: {problem} after {received}{of_all} bytes of the answer"
        )

    def _patiently(self, raw: urllib3.BaseHTTPResponse) -> Iterator[bytes | memoryview]:
        waited_s, num_bytes = 0.0, 0
        while True:
            began = time.monotonic()
            chunk = raw.read1(BUFFER_BYTES, decode_content=False)
            waited_s += time.monotonic() - began
            if not chunk:
                return
            yield chunk
            num_bytes += len(chunk)
            if num_bytes >= LEAST_RATE * self.stall_timeout_s:
                waited_s, num_bytes = 0.0, 0
            elif waited_s >= self.stall_timeout_s:
                raise TimeoutError


def _is_soon_read(raw: urllib3.BaseHTTPResponse) -> bool:
    """Whether the rest of the body is worth the wait: that of a file may be long in coming."""
    rest = raw.length_remaining
    at_most = 1 if raw.status in (200, 206) else SMALL_REST_BYTES  # 1 is all of a probe
    return rest is not None and rest <= at_most


def _in_words(error: http_errors.HTTPError | OSError) -> str:
    """What went wrong, in words of our own: the client's texts repeat the URL."""
    match error:
        case http_errors.NameResolutionError():
            return "the name of the host cannot be resolved"
        case http_errors.NewConnectionError():
            return "cannot connect"
        case http_errors.ConnectTimeoutError():
            return "no connection in time"
        case http_errors.TimeoutError():
            return "the server went silent"
        case TimeoutError():
            return "the server sends next to nothing"
        case http_errors.SSLError():
            return "TLS failed"
        case http_errors.ProxyError():
            return "the proxy refused or failed"
        case _:
            return "the connection was cut"


def _is_untrusted(error: http_errors.HTTPError | OSError) -> bool:
    causes = (error, *error.args)
    return any(isinstance(cause, ssl.SSLCertVerificationError) for cause in causes)
