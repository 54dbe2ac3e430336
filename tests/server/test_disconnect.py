"""A client that goes away leaves nothing running."""

from __future__ import annotations

import json
import socket
from itertools import count
from urllib.parse import urlsplit

import pytest
from own_server import own_server

from unshard.engine.request import GenerationOutput
from unshard.server.manners import Manners


def send(url: str, body: dict) -> socket.socket:
    address = urlsplit(url)
    connection = socket.create_connection((address.hostname, address.port), timeout=60)
    data = json.dumps(body).encode()
    connection.sendall(
        b"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
        b"content-length: %d\r\n\r\n%s" % (len(data), data)
    )
    return connection


@pytest.mark.parametrize("stream", [False, True])
def test_all_requests_of_a_lost_client_are_cancelled(running_server, engine, stream):
    body = {"prompt": ["forever", "forever"], "n": 2, "stream": stream}
    with send(running_server.url, body) as connection:
        assert engine.wait_until(lambda: len(engine.active) == 4)
        if stream:
            assert connection.recv(100).startswith(b"HTTP/1.1 200")
    assert engine.wait_until(lambda: not engine.active)
    assert sorted(engine.cancelled) == sorted(r.request_id for r in engine.submitted)


def test_a_client_that_goes_after_it_asked_for_more_is_cancelled():
    with own_server(Manners()) as server:
        with send(server.url, {"prompt": "forever"}) as connection:
            assert server.engine.wait_until(lambda: server.engine.active)
            for _ in range(3):
                # Each answered first, so that the server has read what was sent before.
                connection.sendall(b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n")
                assert server.client.get("/health").is_success
        assert server.engine.wait_until(lambda: not server.engine.active)


def test_a_client_lost_before_the_first_event_is_cancelled(running_server, engine):
    engine.script = lambda request: (GenerationOutput(request.request_id) for _ in count())
    with send(running_server.url, {"prompt": "p", "stream": True}):
        assert engine.wait_until(lambda: engine.active)
    assert engine.wait_until(lambda: not engine.active)


def test_others_go_on_when_one_client_is_lost(running_server, client, engine):
    whole = client.post("/v1/completions", json={"prompt": "calm", "seed": 5}).json()
    with send(running_server.url, {"prompt": "forever", "stream": True}):
        assert engine.wait_until(lambda: engine.active)
    again = client.post("/v1/completions", json={"prompt": "calm", "seed": 5}).json()
    assert again["choices"] == whole["choices"]
    assert engine.wait_until(lambda: not engine.active)
