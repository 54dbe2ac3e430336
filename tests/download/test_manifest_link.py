"""A manifest behind a URL: fetched whole or not at all, from where the URL leads, in no secret."""

from __future__ import annotations

import io

import pytest

from unshard.download import PresignedTemplate, RetryPolicy, fetch_manifest
from unshard.errors import FormatError, LinkRefusedError, TransferError
from unshard.manifest import MAX_MANIFEST_BYTES
from unshard.testing.object_server import Answer, ObjectServer
from unshard.testing.object_store import FakeObjectStore, Fault

MD5 = "14284cd62d00166bf4a16b7ac43b4946"
CSV = f"shard,md5sum\npart-0.pt,{MD5}".encode()
NAME = "md5sum_shards.csv"


@pytest.fixture
def store(tmp_path):
    with FakeObjectStore(tmp_path) as store:
        store.put(NAME, CSV)
        yield store


@pytest.fixture
def serve():
    """A server that answers as it is told; the URL of a file on it."""
    servers = []

    def start(decide):
        servers.append(ObjectServer(decide))
        return f"http://127.0.0.1:{servers[-1].server_port}/a/{NAME}"

    yield start
    for server in servers:
        server.stop()


def fetch(url: str):
    return fetch_manifest(url, retry=RetryPolicy(attempts=3), sleep=lambda _: None)


def body(content: bytes, **headers: str) -> Answer:
    headers = {"Content-Length": str(len(content)), **headers}
    return Answer(200, headers, io.BytesIO(content), len(content))


def redirect(address: str) -> Answer:
    return Answer(302, {"Location": address, "Content-Length": "0"}, io.BytesIO(), 0)


def test_it_is_read_as_one_on_the_disk(store):
    manifest = fetch(store.presigned_url(NAME))
    assert dict(manifest)["part-0.pt"].value == MD5
    assert manifest.source == f"{store.origin}/weights/{NAME}?…"


@pytest.mark.parametrize("fault", [Fault(status=503), Fault(cut_after=20)])
def test_what_another_attempt_mends_is_attempted(store, fault):
    store.inject(fault, times=2)
    assert list(fetch(store.presigned_url(NAME))) == ["part-0.pt"]
    store.inject(fault, times=3)
    with pytest.raises(TransferError, match="given up after 3 attempts"):
        fetch(store.presigned_url(NAME))


@pytest.mark.parametrize(
    ("fault", "error", "words"),
    [
        (Fault(status=403), LinkRefusedError, "refuses the link"),
        (Fault(status=404), TransferError, "no such file"),
        (Fault(html=True), TransferError, "web page"),
        (Fault(gzip=True), TransferError, "compressed"),
    ],
)
def test_what_is_no_manifest_is_told_without_the_secret(store, fault, error, words):
    url = store.presigned_url(NAME)
    store.inject(fault, times=None)
    with pytest.raises(error, match=words) as caught:
        fetch(url)
    assert "Signature" not in f"{caught.value} {caught.value.hint}"


def test_faults_name_the_url_and_not_its_secret(store):
    store.put(NAME, CSV + b"\nnonsense")
    with pytest.raises(FormatError, match=r"\?…: line 3") as caught:
        fetch(store.presigned_url(NAME))
    assert "Signature" not in str(caught.value)


def test_it_is_not_read_beyond_the_size_of_any_manifest(serve):
    class Endless(io.RawIOBase):
        num_bytes = 0

        def read(self, size=-1):
            self.num_bytes += size
            return b"x" * size

    endless = Endless()
    headers = {"Content-Length": str(2**40)}
    url = serve(lambda request: Answer(200, headers, endless, 2**40))
    with pytest.raises(FormatError, match=f"larger than {MAX_MANIFEST_BYTES}"):
        fetch(url)
    assert endless.num_bytes < 4 * MAX_MANIFEST_BYTES


def test_it_follows_redirects_with_the_query_they_give(store, serve):
    target = store.presigned_url(NAME)
    url = serve(lambda request: redirect("/b/c.csv" if "/a/" in request.target else target))
    manifest = fetch(url)
    assert list(manifest) == ["part-0.pt"]
    assert manifest.source == url
    [request] = store.requests
    assert request.query == target.partition("?")[2]


@pytest.mark.parametrize(
    "address", ["", "ftp://x.example/a.csv", "http:///", "/a b", "/login/", "//[x"]
)
def test_a_redirect_to_nowhere_is_told(serve, address):
    url = serve(lambda request: redirect(address))
    with pytest.raises(TransferError, match="redirects"):
        fetch(url)


def test_a_redirect_never_leaves_tls(monkeypatch):
    from unshard.download import manifest
    from unshard.download.transport import Response

    link = PresignedTemplate.parse("https://host.example/a.csv")
    answer = Response(302, {"Location": "http://host.example/a.csv"}, iter(()))
    with pytest.raises(TransferError, match="redirects elsewhere"):
        manifest._target(link, answer)
    secure = Response(302, {"Location": "https://other.example/a.csv"}, iter(()))
    assert manifest._target(link, secure).origin == "https://other.example"


def test_a_circle_ends(serve):
    asked = []
    url = serve(lambda request: (asked.append(request), redirect(f"/a/{NAME}"))[1])
    with pytest.raises(TransferError, match="redirects without end"):
        fetch(url)
    assert len(asked) == 4
