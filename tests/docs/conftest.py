"""Generated pages: written with UNSHARD_UPDATE_DOCS=1, compared without; servers of pages."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

ROOT = Path(__file__).parents[2]
BUNDLED = "src/unshard/demo_model"
"""As pages write it, from the root of a clone."""


def _held(page: Path, text: str) -> None:
    if os.environ.get("UNSHARD_UPDATE_DOCS"):
        page.parent.mkdir(exist_ok=True)
        page.write_text(text)
    else:
        assert page.read_text() == text, f"{page.name}: run it with UNSHARD_UPDATE_DOCS=1"


@pytest.fixture
def held() -> Callable[[Path, str], None]:
    """Asserts that a page is this text, or makes it so."""
    return _held


@contextlib.contextmanager
def _serving(command: list[str], folder: Path) -> Iterator[str]:
    words = [{"6010": "0"}.get(word, word) for word in command[1:]]
    with subprocess.Popen(
        [sys.executable, "-m", "unshard", *words],
        stderr=subprocess.PIPE,
        text=True,
        cwd=folder,
    ) as process:
        try:
            line = next(line for line in process.stderr if line.startswith("serving "))
            yield line.split()[3]
        finally:
            process.send_signal(signal.SIGTERM)
            process.communicate(timeout=20)


@pytest.fixture
def serving() -> Callable[[list[str], Path], contextlib.AbstractContextManager[str]]:
    """Starts the server of a command in a folder, on a free port, and gives its address."""
    return _serving


def _ask(curl: list[str], url: str) -> dict:
    _, address, header, kind, data, body = curl
    assert (header, data) == ("-H", "-d")
    name, _, value = kind.partition(": ")
    path = httpx.URL(address).path
    answer = httpx.post(f"{url}{path}", content=body, headers={name: value}, timeout=60)
    assert answer.status_code == 200, answer.text
    return answer.json()


@pytest.fixture
def ask() -> Callable[[list[str], str], dict]:
    """What `curl` would, which need not be installed."""
    return _ask


@pytest.fixture
def run_program(tmp_path: Path) -> Callable[[str], str]:
    """Runs a page's Python in a process of its own, without a warning; what it prints."""

    def run(code: str) -> str:
        done = subprocess.run(
            [sys.executable, "-W", "error", "-c", code.replace(BUNDLED, str(ROOT / BUNDLED))],
            cwd=tmp_path, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run
