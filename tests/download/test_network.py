"""The network as sites have it: proxies by the usual variables, certificates of their own."""

from __future__ import annotations

import base64
import contextlib
import io
import socket
import ssl
import threading

import pytest

from unshard.download import PresignedTemplate, RetryPolicy, download
from unshard.download.response import InterruptedTransferError
from unshard.download.transport import Transport
from unshard.errors import TransferError
from unshard.testing.object_server import Answer, ObjectServer
from unshard.testing.object_store import Fault

CDN = "http://cdn.example/w/stubbed.pt?&k=SECRET"


@pytest.fixture(autouse=True)
def no_variables(monkeypatch):
    for name in ("http_proxy", "https_proxy", "no_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)


@pytest.fixture
def proxy():
    """An HTTP proxy that answers everything itself; what it was asked for."""
    seen = []

    def decide(request):
        seen.append(request.target)
        return Answer(200, {"Content-Length": "2"}, io.BytesIO(b"PK"), 2)

    server = ObjectServer(decide)
    yield f"127.0.0.1:{server.server_port}", seen
    server.stop()


@pytest.fixture
def tunnel():
    """A proxy that tunnels; the lines that it was asked with."""
    proxy = Tunnel()
    yield proxy
    proxy.close()


class Tunnel:
    def __init__(self):
        self.asked: list[str] = []
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self.listener.getsockname()[1]}"
        self.sockets: list[socket.socket] = [self.listener]
        self.threads = [threading.Thread(target=self._accept)]
        self.threads[0].start()

    def close(self):
        for each in self.sockets:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
        for thread in self.threads:
            thread.join()
        for each in self.sockets:
            each.close()

    def _accept(self):
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            head = b""
            while not head.endswith(b"\r\n\r\n"):
                head += client.recv(1)
            self.asked.append(head.decode().splitlines()[0])
            host, _, port = head.decode().split()[1].rpartition(":")
            server = socket.create_connection((host, int(port)))
            client.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
            self.sockets += [client, server]
            for ends in ((client, server), (server, client)):
                self.threads.append(threading.Thread(target=self._pump, args=ends))
                self.threads[-1].start()

    def _pump(self, source, target):
        try:
            while block := source.recv(2**16):
                target.sendall(block)
            target.shutdown(socket.SHUT_WR)
        except OSError:
            pass


@pytest.fixture
def tls(site, certificate, monkeypatch):
    """The site's store behind TLS; how many handshakes there were."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    handshakes = []

    class Secure(ObjectServer):
        def finish_request(self, request, client_address):
            with context.wrap_socket(request, server_side=True) as secure:
                handshakes.append(client_address)
                super().finish_request(secure, client_address)

    server = Secure(site.store._decide)
    site.url = site.url.replace(site.store.origin, f"https://127.0.0.1:{server.server_port}")
    yield handshakes
    server.stop()


def get(url: str, name: str = "a.pt") -> bytes:
    template = PresignedTemplate.parse(url)
    with (
        Transport(max_connections=1, stall_timeout_s=20) as transport,
        transport.get(template, name, {}) as response,
    ):
        return response.body()


@pytest.mark.parametrize("variable", ["http_proxy", "HTTP_PROXY"])
@pytest.mark.parametrize("form", ["http://user:pass@{}", "http://{}", "{}"])
def test_a_proxy_is_asked_for_the_whole_address(proxy, monkeypatch, variable, form):
    address, seen = proxy
    monkeypatch.setenv(variable, form.format(address))
    assert get(CDN) == b"PK"
    assert seen == ["http://cdn.example/w/a.pt?&k=SECRET"]


@pytest.mark.parametrize("no_proxy", ["127.0.0.1", "*", "other.example, 127.0.0.1"])
def test_a_host_that_needs_no_proxy_is_asked_itself(site, proxy, monkeypatch, no_proxy):
    site.add("a.pt")
    address, seen = proxy
    monkeypatch.setenv("http_proxy", f"http://{address}")
    assert get(site.url) == b"PK"
    monkeypatch.setenv("NO_PROXY", no_proxy)
    assert get(site.url) == site.contents["a.pt"]
    assert len(seen) == 1


def test_a_proxy_of_the_other_scheme_is_none(site, proxy, monkeypatch):
    site.add("a.pt")
    monkeypatch.setenv("https_proxy", f"http://{proxy[0]}")
    assert get(site.url) == site.contents["a.pt"]


def test_the_proxys_password_goes_to_the_proxy(monkeypatch):
    monkeypatch.setenv("https_proxy", "http://user:p%40ss@127.0.0.1:1")
    template = PresignedTemplate.parse(CDN.replace("http:", "https:"))
    with Transport(max_connections=1, stall_timeout_s=20) as transport:
        with (
            pytest.raises(InterruptedTransferError, match="proxy"),
            transport.get(template, "a.pt", {}),
        ):
            pass
        [host] = transport._hosts.values()
        login = host.pool.proxy_headers["proxy-authorization"]
    assert login == "Basic " + base64.b64encode(b"user:p@ss").decode()


@pytest.mark.parametrize("proxy", ["socks5://u:PASSWORD@127.0.0.1:1", "http://u:PASSWORD@h:x"])
def test_a_proxy_that_cannot_be_used_is_told_without_its_password(site, monkeypatch, proxy):
    monkeypatch.setenv("http_proxy", proxy)
    with pytest.raises(TransferError, match="http_proxy names cannot be used") as caught:
        get(site.url)
    assert caught.value.__context__ is None
    assert "PASSWORD" not in f"{caught.value} {caught.value.hint}"


def test_tls_goes_through_a_proxy_that_sees_the_host_alone(
    site, tls, tunnel, certificate, monkeypatch
):
    site.add("a.pt", "b.pt")
    monkeypatch.setenv("HTTPS_PROXY", f"http://{tunnel.address}")
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate[0]))
    site.run(max_connections=1)
    assert site.fetched() == site.contents
    host = PresignedTemplate.parse(site.url).origin.removeprefix("https://")
    [asked] = tunnel.asked
    assert asked.startswith(f"CONNECT {host} HTTP/")


def test_a_certificate_of_the_site_is_trusted_once_it_is_named(site, tls, certificate, monkeypatch):
    site.add("a.pt")
    with pytest.raises(TransferError, match="certificate is not trusted") as caught:
        site.run()
    assert "SSL_CERT_FILE" in caught.value.hint
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate[0]))
    site.run()
    assert site.fetched() == site.contents


def test_one_handshake_serves_a_connection_for_all_its_files(site, tls, certificate, monkeypatch):
    """Also past error documents; a cut costs one more."""
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate[0]))
    site.add(*(f"{i}.pt" for i in range(6)))
    site.store.inject(Fault(status=503), file="2.pt")
    site.run(max_connections=1)
    assert len(tls) == 1
    site.add("last.pt")
    site.store.inject(Fault(cut_after=1000), file="last.pt")
    download(
        PresignedTemplate.parse(site.url),
        site.manifest,
        site.target,
        max_connections=1,
        retry=RetryPolicy(first_delay_s=0),
    )
    assert site.fetched() == site.contents
    assert len(tls) == 3
