"""Limits that one client meets so that the others do not notice it."""

from __future__ import annotations

import contextlib
import json
import socket
from itertools import count
from urllib.parse import urlsplit

import pytest
from own_server import own_server

from unshard.engine.request import GenerationOutput
from unshard.server.manners import Manners

PATIENT = 30


def connect(url):
    address = urlsplit(url)
    return socket.create_connection((address.hostname, address.port), timeout=PATIENT)


def wait_until_cut(connection: socket.socket) -> None:
    """Closed is as good as reset; none of both is a timeout."""
    with contextlib.suppress(ConnectionResetError):
        while connection.recv(1000):
            pass


def post(body: dict) -> bytes:
    data = json.dumps(body).encode()
    return (
        b"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
        b"content-length: %d\r\n\r\n%s" % (len(data), data)
    )


def test_a_full_queue_refuses_the_next_and_nobody_else():
    with own_server(Manners(max_queue=2)) as server:
        forever = {"prompt": "forever", "stream": True}
        with server.client.stream("POST", "/v1/completions", json=forever) as running:
            lines = running.iter_lines()
            next(lines)
            server.engine.num_waiting = 2
            refused = server.client.post("/v1/completions", json={"prompt": "p"})
            assert refused.status_code == 429
            assert int(refused.headers["retry-after"]) >= 1
            assert refused.json()["error"]["type"] == "invalid_request_error"
            assert len(server.engine.submitted) == 1
            assert [next(lines) for _ in range(4)]
            server.engine.num_waiting = 1
            assert server.client.post("/v1/completions", json={"prompt": "p"}).is_success


@pytest.mark.parametrize("stream", [False, True])
def test_a_call_that_takes_too_long_is_ended(stream):
    with own_server(Manners(request_seconds=0.05)) as server:
        server.engine.script = lambda request: (
            GenerationOutput(request.request_id) for _ in count()
        )
        body = {"prompt": ["a", "b"], "stream": stream}
        answer = server.client.post("/v1/completions", json=body)
        assert answer.status_code == 504
        assert "longer than 0.05 s" in answer.json()["error"]["message"]
        assert server.engine.wait_until(lambda: not server.engine.active)
        assert len(server.engine.cancelled) == 2


def test_a_stream_that_takes_too_long_ends_with_an_error():
    with own_server(Manners(request_seconds=0.2)) as server:
        body = {"prompt": "forever", "stream": True}
        answer = server.client.post("/v1/completions", json=body)
        assert answer.status_code == 200
        *_, last = [line for line in answer.text.splitlines() if line]
        assert "longer than" in json.loads(last.removeprefix("data: "))["error"]["message"]


@pytest.mark.parametrize(
    "sent",
    [b"", b"POST /v1/compl", post({"prompt": "p"})[:-3], b"GET /health HTTP/1.1\r\nhost: x\r\n"],
)
def test_a_request_that_never_comes_whole_is_cut(sent):
    with own_server(Manners(client_seconds=0.1)) as server, connect(server.url) as connection:
        connection.sendall(sent)
        wait_until_cut(connection)
        assert not server.engine.submitted


def test_a_byte_now_and_then_buys_no_time():
    with own_server(Manners(client_seconds=0.2)) as server, connect(server.url) as connection:
        connection.sendall(b"GET /")
        connection.settimeout(0.02)
        with contextlib.suppress(ConnectionResetError, BrokenPipeError):
            while True:
                connection.sendall(b"a")
                with contextlib.suppress(TimeoutError):
                    if not connection.recv(1):
                        break


def test_a_second_request_has_its_own_time():
    with own_server(Manners(client_seconds=0.1)) as server, connect(server.url) as connection:
        connection.sendall(b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n")
        assert b"200 OK" in connection.recv(1000)
        connection.sendall(b"GET /health")
        wait_until_cut(connection)


def test_a_second_request_that_comes_with_the_first_has_its_own_time():
    with own_server(Manners(client_seconds=0.1)) as server, connect(server.url) as connection:
        connection.sendall(b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n" + post({"prompt": "p"})[:-3])
        assert b"200 OK" in connection.recv(1000)
        wait_until_cut(connection)
        assert not server.engine.submitted


@pytest.mark.slow  # until the buffers of the system are full
def test_a_client_that_takes_nothing_is_cut_and_what_it_asked_is_cancelled():
    with own_server(Manners(client_seconds=0.1)) as server:
        with connect(server.url) as connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            connection.sendall(post({"prompt": ["forever"] * 200, "stream": True}))
            assert server.engine.wait_until(lambda: len(server.engine.active) == 200, PATIENT)
            assert server.engine.wait_until(lambda: not server.engine.active, PATIENT)
        assert server.client.get("/health").is_success


def test_a_long_answer_is_not_cut():
    with (
        own_server(Manners(client_seconds=0.05)) as server,
        server.client.stream(
            "POST", "/v1/completions", json={"prompt": "forever", "stream": True}
        ) as answer,
    ):
        lines = answer.iter_lines()
        assert all(next(lines) is not None for _ in range(400))


def test_pages_of_others_may_not_call_unless_they_are_named():
    origin = "https://page.example"
    asked = {"origin": origin, "access-control-request-method": "POST"}
    with own_server(Manners()) as server:
        for answer in (
            server.client.options("/v1/completions", headers=asked),
            server.client.get("/v1/models", headers={"origin": origin}),
        ):
            assert not any(name.startswith("access-control") for name in answer.headers)
    manners = Manners(cors_origins=(origin,), api_keys=("key",))
    with own_server(manners) as server:
        asked["access-control-request-headers"] = "authorization,content-type"
        answer = server.client.options("/v1/completions", headers=asked)
        assert answer.status_code == 200
        assert answer.headers["access-control-allow-origin"] == origin
        answer = server.client.get("/v1/models", headers={"origin": origin})
        assert answer.status_code == 401  # and the page can read why
        assert answer.headers["access-control-allow-origin"] == origin
        asked["origin"] = "https://other.example"
        answer = server.client.options("/v1/completions", headers=asked)
        assert "access-control-allow-origin" not in answer.headers


def test_what_is_not_http_gets_the_error_object():
    with own_server(Manners()) as server, connect(server.url) as connection:
        connection.sendall(b"hello\r\n\r\n")
        answer = b"".join(iter(lambda: connection.recv(1000), b""))
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400 ")
    assert json.loads(body)["error"]["type"] == "invalid_request_error"


def test_ready_ends_before_the_server_does():
    with own_server(Manners()) as server:
        assert server.client.get("/ready").is_success
        server.generations.ending = True
        answer = server.client.get("/ready")
        assert answer.status_code == 503
        assert answer.json()["error"]["type"] == "server_error"
        assert server.client.get("/health").is_success
        assert server.client.post("/v1/completions", json={"prompt": "p"}).is_success
