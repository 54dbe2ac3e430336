"""The server as a process: where it listens, how it ends, what it leaves."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest
from scripted_engine import ByteTokenizer, ScriptedEngine

from unshard.errors import UnshardError
from unshard.server.run import bind, run, url_of
from unshard.server.served import ServedModel

PROGRAM = Path(__file__).with_name("scripted_engine.py")


@dataclass
class Running:
    process: subprocess.Popen
    url: str

    def stop(self, *signals: int) -> str:
        """Send `signals`; what the process wrote to stderr. It must end long before the grace."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text()
        assert children == ""
        for number in signals:
            self.process.send_signal(number)
        _, err = self.process.communicate(timeout=60)
        assert self.process.returncode == 0
        return err

    def send(self, head: bytes, body: bytes) -> socket.socket:
        address = urlsplit(self.url)
        connection = socket.create_connection((address.hostname, address.port), timeout=60)
        connection.sendall(b"POST /v1/completions HTTP/1.1\r\nhost: x\r\n" + head + b"\r\n" + body)
        return connection


@contextlib.contextmanager
def running(grace: float = 0.3) -> Iterator[Running]:
    with subprocess.Popen(
        [sys.executable, "-W", "error", PROGRAM, "--grace", str(grace)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield Running(process, process.stdout.readline().strip())
        finally:
            process.kill()


def test_port_zero_is_a_free_port_and_a_taken_one_is_named():
    with bind("127.0.0.1", 0) as first:
        first.listen()
        port = first.getsockname()[1]
        assert url_of(first) == f"http://127.0.0.1:{port}"
        with pytest.raises(UnshardError, match=f"port {port}: Address already in use") as taken:
            bind("127.0.0.1", port)
    assert "--port 0" in taken.value.hint
    assert taken.value.exit_code == 1
    bind("127.0.0.1", port).close()


@pytest.mark.parametrize("host", ["203.0.113.1", "no such host", "a" * 80, "::ffff:999.0.0.1"])
def test_a_host_that_is_not_ours(host):
    with pytest.raises(UnshardError, match="cannot listen on"):
        bind(host, 0)


def test_answers_are_not_held_up_by_the_network_stack(running_server):
    # With Nagle's algorithm a client that sends head and body apart waits 40 ms for each answer.
    with httpx.Client(base_url=running_server.url, timeout=60) as client:
        client.post("/v1/completions", json={"prompt": "p", "max_tokens": 1})
        connections = list(running_server.server.server_state.connections)
        sockets = [each.transport.get_extra_info("socket") for each in connections]
        assert sockets
        assert all(s.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) for s in sockets)


@pytest.mark.slow
def test_sigterm_lets_requests_finish_and_cuts_the_endless_with_an_answer():
    short = {"prompt": "short", "max_tokens": 16}
    with running() as server, httpx.Client(base_url=server.url, timeout=60) as client:
        assert len(client.post("/v1/completions", json=short).json()["choices"]) == 1
        endless = {"prompt": "forever", "stream": True}
        with client.stream("POST", "/v1/completions", json=endless) as answer:
            lines = answer.iter_lines()
            assert next(lines).startswith("data: ")
            assert server.stop(signal.SIGTERM) == ""
            *_, last = [line for line in lines if line]
            assert "shutting down" in json.loads(last.removeprefix("data: "))["error"]["message"]
        with pytest.raises(httpx.ConnectError):
            client.get("/health")


@pytest.mark.slow
@pytest.mark.parametrize("signals", [[signal.SIGTERM], [signal.SIGINT], [signal.SIGINT] * 2])
def test_an_idle_server_ends_at_once(signals):
    with running(grace=3600) as server, httpx.Client(base_url=server.url, timeout=60) as client:
        assert client.get("/health").is_success  # and the connection stays open
        assert server.stop(*signals) == ""


@pytest.mark.slow
def test_a_request_in_time_is_answered_whole():
    with running(grace=3600) as server, httpx.Client(base_url=server.url, timeout=60) as client:
        body = {"prompt": "x", "max_tokens": 60, "stream": True}
        with client.stream("POST", "/v1/completions", json=body) as answer:
            lines = answer.iter_lines()
            next(lines)
            assert server.stop(signal.SIGTERM) == ""
            *_, last, done = [line for line in lines if line]
    assert done == "data: [DONE]"
    assert '"finish_reason":"length"' in last


@pytest.mark.slow
def test_a_second_signal_cuts_the_grace():
    with running(grace=3600) as server, httpx.Client(base_url=server.url, timeout=60) as client:
        body = {"prompt": "forever", "stream": True}
        with client.stream("POST", "/v1/completions", json=body) as answer:
            lines = answer.iter_lines()
            next(lines)
            server.process.send_signal(signal.SIGTERM)
            assert "error" not in next(line for line in lines if line)
            assert server.stop(signal.SIGTERM) == ""
            assert any("shutting down" in line for line in lines)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["reads nothing", "sends half"])
def test_a_client_that_hangs_does_not_hold_the_server(kind):
    body = json.dumps({"prompt": ["forever"] * 200, "stream": True}).encode()
    head = b"content-type: application/json\r\ncontent-length: %d\r\n" % len(body)
    with running(grace=1) as server:
        sent = body if kind == "reads nothing" else body[:5]
        with server.send(head, sent) as connection:
            if sent is body:
                assert connection.recv(100, socket.MSG_PEEK)
            assert server.stop(signal.SIGTERM) == ""


@pytest.mark.slow
def test_the_engines_death_ends_the_server_without_grace():
    with running(grace=60) as server, httpx.Client(base_url=server.url) as client:
        endless = {"prompt": "forever", "stream": True}
        with client.stream("POST", "/v1/completions", json=endless) as answer:
            lines = answer.iter_lines()
            next(lines)
            died = httpx.post(f"{server.url}/v1/completions", json={"prompt": "die"})
            assert died.status_code == 500
            assert "MemoryError" not in died.text
            assert "died: MemoryError" in server.stop()
            *_, last = [line for line in lines if line]
            assert "error" in json.loads(last.removeprefix("data: "))


@pytest.mark.slow
def test_strangers_write_no_lines_into_the_log():
    with running() as server:
        for rubbish in (b"\0" * 300, b"GET / HTTP/9\r\n\r\n", b"A" * 100_000):
            address = urlsplit(server.url)
            with (
                contextlib.suppress(ConnectionError),
                socket.create_connection((address.hostname, address.port), timeout=60) as client,
            ):
                client.sendall(rubbish)
                while client.recv(1 << 16):
                    pass
        assert server.stop(signal.SIGTERM) == ""


def test_events_for_a_client_that_went_are_no_warnings(caplog):
    log = logging.getLogger("asyncio")
    served = ServedModel("scripted", ScriptedEngine(), ByteTokenizer(), created=12)
    bound = bind("127.0.0.1", 0)

    async def write_after_the_end() -> None:
        _, writer = await asyncio.open_connection(*bound.getsockname()[:2])
        writer.transport.abort()
        for _ in range(9):
            writer.transport.write(b"event")

    def on_ready() -> None:
        asyncio.get_running_loop().create_task(write_after_the_end()).add_done_callback(
            lambda _: signal.raise_signal(signal.SIGTERM)
        )

    run(served, bound, on_ready=on_ready)
    log.warning("another")
    assert caplog.messages == ["another"]
