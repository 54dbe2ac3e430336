"""The connections of one transport, straight or through a proxy.

The secret query never enters urllib3's request machinery, whose exceptions and debug log
repeat the URL: the connection appends it when it writes the request line.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
import urllib.request
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any
from urllib.parse import unquote, urlsplit

import urllib3
from urllib3 import exceptions as http_errors
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.util.ssl_ import create_urllib3_context

from unshard.download.body import BufferedResponse, GatheredResponse
from unshard.download.tls import TlsStream
from unshard.errors import TransferError


@dataclass(slots=True, repr=False)
class Wire:
    """What the connections of one transport share: the open sockets and, for the thread
    that asks, the secret of the link it asks by."""

    sockets: weakref.WeakSet[socket.socket] = field(default_factory=weakref.WeakSet)
    connected: bool = False
    aborted: bool = False
    lock: threading.Lock = field(default_factory=threading.Lock)
    thread: threading.local = field(default_factory=threading.local)

    @contextmanager
    def asking(self, query: str) -> Iterator[None]:
        """Requests that this thread writes meanwhile carry `query`."""
        self.thread.query = f"?{query}" if query else ""
        try:
            yield
        finally:
            del self.thread.query

    def opened(self, sock: socket.socket) -> None:
        with self.lock:
            self.sockets.add(sock)
            self.connected = True
            if self.aborted:
                _shut_down(sock)

    def abort(self) -> None:
        with self.lock:
            self.aborted = True
            for sock in self.sockets:
                _shut_down(sock)


def connect(origin: str, wire: Wire, **settings: Any) -> tuple[urllib3.HTTPConnectionPool, str]:
    """The pool for `origin`, of connections that share `wire`, and what goes before each path.

    Raises:
        TransferError: a proxy is named that cannot be one.
    """
    pool, prefix = _pool(origin, **settings)
    pool.conn_kw["wire"] = wire
    pool.ConnectionCls = _CONNECTIONS[pool.scheme]
    return pool, prefix


def _pool(origin: str, **settings: Any) -> tuple[urllib3.HTTPConnectionPool, str]:
    """The pool for `origin` and what goes before each path: nothing, or the origin itself
    for a plain-HTTP proxy. Proxies come from the usual variables (`https_proxy`, …)."""
    parts = urlsplit(origin)
    if parts.scheme == "https":
        settings["ssl_context"] = _tls_context()
    proxy = urllib.request.getproxies().get(parts.scheme)
    if not proxy or urllib.request.proxy_bypass(parts.netloc):
        return urllib3.PoolManager(**settings).connection_from_url(origin), ""
    try:
        manager = _proxy_manager(proxy if "://" in proxy else f"http://{proxy}", **settings)
    except (http_errors.HTTPError, ValueError):
        manager = None  # said below: the text of the error may have the proxy's password
    if manager is None:
        raise TransferError(
            f"{parts.netloc}: the proxy that {parts.scheme}_proxy names cannot be used",
            hint="it must be http://HOST:PORT or https://HOST:PORT",
        )
    return manager.connection_from_url(origin), origin if parts.scheme == "http" else ""


def _tls_context() -> ssl.SSLContext:
    """One for all connections: to read the system's certificates takes a connection 25 ms."""
    context = create_urllib3_context()
    context.load_default_certs()
    context.wrap_socket = partial(_stream, context)  # type: ignore[assignment]
    return context


def _stream(
    context: ssl.SSLContext, sock: socket.socket, *, server_hostname: str | None
) -> TlsStream:
    try:
        return TlsStream(sock, context, server_hostname)
    except BaseException:
        sock.close()
        raise


def _proxy_manager(proxy: str, **settings: Any) -> urllib3.ProxyManager:
    login = urlsplit(proxy)
    headers = None
    if login.username:
        user, password = unquote(login.username), unquote(login.password or "")
        headers = urllib3.make_headers(proxy_basic_auth=f"{user}:{password}")
    return urllib3.ProxyManager(proxy, proxy_headers=headers, **settings)


class _SignedHTTPConnection(HTTPConnection):
    response_class = BufferedResponse

    def __init__(self, *args: Any, wire: Wire, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._wire = wire

    def connect(self) -> None:
        super().connect()
        self._wire.opened(self.sock)

    def putrequest(
        self, method: str, url: str, skip_host: bool = False, skip_accept_encoding: bool = False
    ) -> None:
        super().putrequest(method, url + self._wire.thread.query, skip_host, skip_accept_encoding)


class _SignedHTTPSConnection(_SignedHTTPConnection, HTTPSConnection):
    """The same over TLS: the base before this one in line is HTTPSConnection."""

    response_class = GatheredResponse


_CONNECTIONS = {"http": _SignedHTTPConnection, "https": _SignedHTTPSConnection}


def _shut_down(sock: socket.socket) -> None:
    # The plain socket's method even for TLS: SSLSocket's would first take away the state
    # that another thread is reading with. TLS inside the TLS to a proxy is no socket at all.
    with contextlib.suppress(OSError):  # it is closed or was never connected
        socket.socket.shutdown(getattr(sock, "socket", sock), socket.SHUT_RDWR)
