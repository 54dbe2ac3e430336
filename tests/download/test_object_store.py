"""The fake behaves like the CDN; asked here with a plain HTTP client, not with ours."""

from __future__ import annotations

import contextlib
import http.client
from urllib.parse import urlsplit

import pytest

from unshard.testing.object_store import FakeObjectStore, Fault


@pytest.fixture
def store(tmp_path):
    with FakeObjectStore(tmp_path) as store:
        store.put("a.pt", bytes(range(100)))
        yield store


def ask(store, url=None, method="GET", **headers):
    parts = urlsplit(url or store.presigned_url("a.pt"))
    target = f"{parts.path}?{parts.query}" if parts.query else parts.path
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    with contextlib.closing(http.client.HTTPConnection(parts.netloc, timeout=60)) as connection:
        connection.request(method, target, headers=names)
        response = connection.getresponse()
        return response, response.read()


def test_whole_and_ranges_and_head(store):
    response, body = ask(store)
    assert (response.status, body) == (200, bytes(range(100)))
    etag = response.headers["ETag"]
    for asked, first, last in [("90-", 90, 99), ("10-19", 10, 19), ("95-999", 95, 99)]:
        response, body = ask(store, Range=f"bytes={asked}", If_Range=etag)
        assert (response.status, body) == (206, bytes(range(first, last + 1)))
        assert response.headers["Content-Range"] == f"bytes {first}-{last}/100"
    response, body = ask(store, Range="bytes=90-", If_Range='"other"')
    assert (response.status, len(body)) == (200, 100)
    response, _ = ask(store, Range="bytes=100-")
    assert (response.status, response.headers["Content-Range"]) == (416, "bytes */100")
    response, body = ask(store, method="HEAD")
    assert (response.headers["Content-Length"], body) == ("100", b"")


def test_a_replaced_object_has_another_etag(store):
    before = ask(store)[0].headers["ETag"]
    assert ask(store)[0].headers["ETag"] == before
    store.put("a.pt", bytes(range(100)))
    assert ask(store)[0].headers["ETag"] != before


def test_only_its_own_unexpired_links_are_served(store):
    url = store.presigned_url("a.pt")
    assert url != store.presigned_url("a.pt")
    assert "a.pt?&Expires=" in url
    mangled = [
        url.partition("?")[0],
        url.partition("&Key-Pair-Id")[0],
        url.replace("Signature=", "Signature=0"),
        url.replace("Expires=", "Expires=9"),
        store.presigned_url("a.pt", expires_in_s=-1),
    ]
    for bad in mangled:
        response, body = ask(store, bad)
        assert response.status == 403
        assert body.startswith(b'<?xml version="1.0" encoding="UTF-8"?><Error><Code>')
    assert b"Missing Key-Pair-Id query parameter" in ask(store, mangled[1])[1]
    assert ask(store, url)[0].status == 200
    store.expire_links()
    assert ask(store, url)[0].status == 403
    assert ask(store)[0].status == 200


def test_a_public_store_wants_no_signature(tmp_path):
    (tmp_path / "a.pt").write_bytes(b"x")
    with FakeObjectStore(tmp_path, is_public=True) as store:
        assert ask(store, store.presigned_url("a.pt"))[1] == b"x"
        assert ask(store, f"{store.origin}/weights/..%2fa.pt")[0].status == 404
        assert ask(store, f"{store.origin}/none.pt")[0].status == 404


def test_faults_come_in_turn_and_are_used_up(store):
    store.inject(Fault(status=503, retry_after_s=7), times=2)
    store.inject(Fault(html=True), file="a.pt")
    store.inject(Fault(status=500), file="b.pt")
    responses = [ask(store)[0] for _ in range(4)]
    assert [response.status for response in responses] == [503, 503, 200, 200]
    assert responses[0].headers["Retry-After"] == "7"
    assert responses[2].headers["Content-Type"] == "text/html"
    assert ask(store, store.presigned_url("b.pt"))[0].status == 500
    store.inject(Fault(status=500), times=None)
    assert [ask(store)[0].status for _ in range(3)] == [500, 500, 500]
    store.heal()
    assert ask(store)[0].status == 200


def test_a_cut_is_a_cut(store):
    store.inject(Fault(cut_after=10))
    with pytest.raises(http.client.IncompleteRead) as e:
        ask(store)
    assert e.value.partial == bytes(range(10))
    assert [(r.status, r.sent_bytes) for r in store.requests] == [(200, 10)]


def test_closing_does_not_wait_for_those_who_stall_or_stay(tmp_path):
    with FakeObjectStore(tmp_path) as store:
        store.put("a.pt", bytes(100))
        store.inject(Fault(stall_after=10))
        parts = urlsplit(store.presigned_url("a.pt"))
        stalled, idle = (http.client.HTTPConnection(parts.netloc) for _ in range(2))
        stalled.request("GET", f"{parts.path}?{parts.query}")
        response = stalled.getresponse()
        assert len(response.read1(100)) == 10
        idle.connect()
    stalled.close()
    response.close()
    idle.close()
