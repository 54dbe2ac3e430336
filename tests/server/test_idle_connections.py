"""Clients that connect and do nothing, more than a process may have files at its start."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

DEMO_MODEL = Path(__file__).parents[2] / "src/unshard/demo_model"
MOST_FILES = 256
NUM_IDLE = 400
SERVE = f'ulimit -Sn {MOST_FILES}; exec "$@"'


@pytest.fixture
def port() -> Iterator[int]:
    """Of a server whose clients have two seconds to send a request."""
    unshard = [sys.executable, "-m", "unshard", "serve", str(DEMO_MODEL)]
    command = ["sh", "-c", SERVE, "sh", *unshard, "--port", "0", "--client-timeout", "2"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        said = (re.search(r"http://127\.0\.0\.1:(\d+)", line) for line in process.stderr)
        yield next(int(found[1]) for found in said if found)
        process.terminate()


def test_they_keep_nobody_out_and_are_cut(port: int) -> None:
    with ExitStack() as stack:
        idle = [
            stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=60))
            for _ in range(NUM_IDLE)
        ]
        for each in idle[::2]:
            each.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\n")
        body = json.dumps({"prompt": "a", "max_tokens": 1}).encode()
        asked = urllib.request.Request(
            f"http://127.0.0.1:{port}/v1/completions", body, {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(asked, timeout=60) as answer:
            assert json.load(answer)["usage"]["completion_tokens"] == 1
        assert all(_is_cut(each) for each in idle)


def _is_cut(connection: socket.socket) -> bool:
    try:
        return connection.recv(1) == b""
    except ConnectionResetError:
        return True
