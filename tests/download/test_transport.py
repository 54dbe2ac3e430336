"""What the client library is made to do: connections used again, aborts."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading

import pytest
from urllib3.util.ssltransport import SSLTransport

from unshard.download import PresignedTemplate
from unshard.download.response import InterruptedTransferError
from unshard.download.transport import Transport
from unshard.testing.object_server import ObjectServer
from unshard.testing.object_store import Fault


class Requests:
    """A transport and the link it is asked by."""

    def __init__(self, url: str, **settings) -> None:
        settings = {"max_connections": 1, "stall_timeout_s": 20, **settings}
        self.template = PresignedTemplate.parse(url)
        self.transport = Transport(**settings)

    def get(self, name: str, headers: dict[str, str]):
        return self.transport.get(self.template, name, headers)

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.transport.__exit__(*exception)


def read(requests: Requests, name: str, **headers: str) -> bytes:
    with requests.get(name, headers) as response:
        return response.body()


@pytest.fixture
def num_connections(monkeypatch):
    """Counts connections that a server accepts."""
    count, opened = [], ObjectServer.opened
    monkeypatch.setattr(
        ObjectServer, "opened", lambda self, c: (count.append(c), opened(self, c))[1]
    )
    return lambda: len(count)


def test_connections_are_used_again_also_after_an_error_document(num_connections, site):
    site.add("a.pt")
    with Requests(site.url) as link:
        for _ in range(3):
            assert read(link, "a.pt") == site.contents["a.pt"]
            assert b"NoSuchKey" in read(link, "none.pt")
    assert num_connections() == 1


def test_a_connection_is_used_again_after_an_empty_body_that_nobody_read(num_connections, site):
    site.add("a.pt", size=0)
    site.contents["a.pt"] = b""
    with Requests(site.url) as link:
        for _ in range(3):
            with link.get("a.pt", {}) as response:
                assert response.content_length == 0
    assert num_connections() == 1


def test_a_connection_is_used_again_after_a_small_body_that_nobody_read(num_connections, site):
    site.add("a.pt")
    with Requests(site.url) as link:
        for name in ("none.pt", "a.pt", "none.pt"):
            with link.get(name, {"Range": "bytes=0-0"}) as response:
                assert response.content_length < 200
    assert num_connections() == 1


def test_a_body_left_unread_costs_the_connection_and_nothing_else(num_connections, site):
    site.add("a.pt", size=5_000_000)
    with Requests(site.url) as link:
        with link.get("a.pt", {}) as response:
            next(response.chunks)
        assert read(link, "a.pt") == site.contents["a.pt"]
    assert num_connections() == 2


@pytest.mark.parametrize("stall_after", [0, 1000])
def test_an_abort_ends_a_stalled_body_and_every_later_request(site, stall_after):
    site.add("a.pt")
    site.store.inject(Fault(stall_after=stall_after))
    with Requests(site.url, stall_timeout_s=3600) as link:
        with link.get("a.pt", {}) as response:
            threading.Timer(0.05, link.transport.abort).start()
            with pytest.raises(InterruptedTransferError, match="cut"):
                response.body()
        with pytest.raises(InterruptedTransferError):
            read(link, "a.pt")


OK = b"HTTP/1.1 200 OK\r\n"
BUSY = b"HTTP/1.1 503 Busy\r\n"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"


def trickle(listener: socket.socket, stopped: threading.Event, begin: bytes, again: bytes) -> None:
    """Answer one request with `begin`, and with `again` now and then."""
    connection, _ = listener.accept()
    with connection, contextlib.suppress(OSError):
        connection.recv(4096)
        connection.sendall(begin)
        while not stopped.wait(0.02):
            connection.sendall(again)


@pytest.mark.timeout(20)
@pytest.mark.parametrize(
    ("begin", "again"),
    [
        (OK + b"Content-Length: 1000\r\n\r\n", b"x"),
        (b"", b"H"),
        (b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
        (OK, b"x"),
        (OK + b"X-Much: ", b"more"),
        (CHUNKED, b"0"),
        (CHUNKED + b"1;", b"x"),
        (CHUNKED + b"1\r\nx\r\n0\r\n", b"X-More: yes\r\n"),
        (CHUNKED + b"9\r\n", b"x"),
    ],
    ids=str,
)
def test_a_server_that_trickles_is_given_up_as_a_silent_one_is(begin: bytes, again: bytes):
    stopped = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = threading.Thread(target=trickle, args=(listener, stopped, begin, again))
        server.start()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/a.pt"
        with (
            Requests(url, stall_timeout_s=0.4) as link,
            pytest.raises(InterruptedTransferError, match=r"next to nothing|silent|cut"),
        ):
            read(link, "a.pt")
        stopped.set()
        server.join()


@pytest.mark.timeout(20)
def test_an_error_that_trickles_is_not_waited_for():
    """Its body is read away, to use the connection again, unless that takes too long."""
    stopped = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        answer = BUSY + b"Content-Length: 4000\r\n\r\n"
        server = threading.Thread(target=trickle, args=(listener, stopped, answer, b"x"))
        server.start()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/a.pt"
        with Requests(url, stall_timeout_s=0.4) as link, link.get("a.pt", {}) as response:
            assert response.status == 503
        stopped.set()
        server.join()


def test_tls_to_a_server_without_it_is_said_plainly(site):
    with (
        Requests(site.url.replace("http:", "https:")) as link,
        pytest.raises(InterruptedTransferError, match="TLS failed"),
    ):
        read(link, "a.pt")


def test_an_abort_also_ends_tls_inside_the_tls_to_a_proxy(site):
    ours, theirs = socket.socketpair()
    inner = SSLTransport.__new__(SSLTransport)  # its constructor would shake hands
    inner.socket = ssl.create_default_context().wrap_socket(
        ours, server_hostname="proxy.example", do_handshake_on_connect=False
    )
    with Requests(site.url) as link, theirs, inner.socket:
        link.transport._wire.opened(inner)
        link.transport.abort()
        assert theirs.recv(1) == b""
