"""Who has no key learns nothing but that the server lives."""

from __future__ import annotations

import pytest
from own_server import own_server

from unshard.server.manners import Manners

KEYS = ("first-key", "second-key", "cl\u00e9 \u00e0")
"""The last ends in a byte that Latin-1 reads as a space."""
CLOSED = [
    ("GET", "/v1/models"),
    ("POST", "/v1/completions"),
    ("GET", "/metrics"),
    ("GET", "/openapi.json"),
    ("GET", "/no/such/route"),
    ("OPTIONS", "/v1/completions"),
    ("GET", "/health/../v1/models"),
    ("GET", "/health/"),
    ("GET", "/readyz"),
]
WRONG = [
    None,
    "",
    "Bearer",
    "Bearer first",
    "Bearer first-key2",
    "Bearer FIRST-KEY",
    "Bearer first-key second-key",
    "Basic first-key",
    "first-key",
    "Bearer \u00e9",
]


@pytest.fixture(scope="module")
def client():
    with own_server(Manners(api_keys=KEYS)) as server:
        yield server.client


def bearer(key):
    return {"authorization": f"Bearer {key}".encode()}


@pytest.mark.parametrize(("method", "path"), CLOSED)
def test_every_path_asks_for_a_key(client, method, path):
    answer = client.request(method, path)
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"] == "Bearer"
    error = answer.json()["error"]
    assert (error["type"], error["code"]) == ("invalid_request_error", "invalid_api_key")
    assert not any(key in answer.text for key in KEYS)


@pytest.mark.parametrize("path", ["/health", "/ready"])
def test_whether_it_lives_is_told_to_all(client, path):
    assert client.get(path).json() == {"status": "ok"}


@pytest.mark.parametrize("key", KEYS)
def test_each_key_opens(client, key):
    assert client.get("/v1/models", headers=bearer(key)).is_success
    assert client.get("/v1/models", headers={"authorization": f"bearer  {key}".encode()}).is_success
    body = {"prompt": "p", "max_tokens": 1}
    assert client.post("/v1/completions", json=body, headers=bearer(key)).is_success


@pytest.mark.parametrize("header", WRONG)
def test_what_is_no_key(client, header):
    headers = {} if header is None else {"authorization": header.encode("latin-1")}
    assert client.get("/v1/models", headers=headers).status_code == 401


def test_a_key_in_the_second_header_is_none(client):
    headers = [("authorization", "Bearer x"), ("authorization", "Bearer first-key")]
    assert client.get("/v1/models", headers=headers).status_code == 401


def test_keys_are_in_no_repr():
    assert "first-key" not in repr(Manners(api_keys=KEYS))
