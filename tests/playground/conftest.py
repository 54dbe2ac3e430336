"""A browser on the playground of a scripted server and of the bundled model."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.resources import as_file, files
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

# The import mode of the suite leaves the folders of tests off the path.
sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1] / "server"))

import scripted_engine
import uvicorn

from unshard.server.app import create_app
from unshard.server.generation import Generations
from unshard.server.run import bind, url_of
from unshard.server.served import ServedModel

CHROMIUM = "/usr/bin/chromium"
PATIENCE_MS = 60_000
"""How long a page may take to do what is expected; a busy machine takes seconds."""


@contextmanager
def serving(served: ServedModel) -> Iterator[str]:
    bound = bind("127.0.0.1", 0)
    app = create_app(served, Generations(served.engine))
    server = uvicorn.Server(uvicorn.Config(app, http="h11", ws="none", log_config=None))
    bound.listen()
    thread = threading.Thread(target=lambda: asyncio.run(server.serve([bound])))
    thread.start()
    yield url_of(bound)
    server.should_exit = True
    thread.join()


@pytest.fixture(scope="session")
def scripted() -> Iterator[SimpleNamespace]:
    engine = scripted_engine.ScriptedEngine(pause_seconds=0.0002)
    served = ServedModel("scripted", engine, scripted_engine.ByteTokenizer(), 12)
    with serving(served) as url:
        yield SimpleNamespace(engine=engine, url=url)


@pytest.fixture
def engine(scripted: SimpleNamespace) -> Iterator[scripted_engine.ScriptedEngine]:
    """The engine of `scripted`; its script may be replaced for one test."""
    script = scripted.engine.script
    scripted.engine.submitted.clear()
    scripted.engine.cancelled.clear()
    yield scripted.engine
    scripted.engine.script = script


@pytest.fixture(scope="session")
def demo_url() -> Iterator[str]:
    """`unshard serve` on the bundled model."""
    with as_file(files("unshard") / "demo_model") as folder:
        command = [sys.executable, "-m", "unshard", "serve", folder, "--port", "0"]
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
            try:
                line = next(line for line in process.stderr if line.startswith("serving "))
                yield line.split()[3]
            finally:
                process.terminate()
                process.communicate()


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        # As root, as in containers, Chromium starts without its sandbox only.
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def new_page(browser: Any, scripted: SimpleNamespace, expect: Any) -> Iterator[Callable[..., Any]]:
    """Opens pages, each with a storage of its own, and at the end checks what all promise:
    nothing was asked of another host, and nothing went wrong in the page's scripts."""
    contexts, complaints, asked = [], [], []

    def open_page(url: str = "", fragment: str = "", **options: Any) -> Any:
        context = browser.new_context(**{"viewport": {"width": 1280, "height": 800}, **options})
        context.set_default_timeout(PATIENCE_MS)
        context.grant_permissions(["clipboard-read", "clipboard-write"])
        contexts.append(context)
        page = context.new_page()
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("console", lambda entry: complaints.append(entry.text) if wrong(entry) else None)
        page.on("request", lambda request: asked.append((request.url, url or scripted.url)))
        page.goto((url or scripted.url) + "/" + fragment)
        page.wait_for_selector("#examples button")
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert complaints == []
    assert [where for where, home in asked if not where.startswith(home + "/")] == []


def wrong(entry: Any) -> bool:
    """The browser itself reports every answer that is no success; those are wanted here."""
    refused = entry.text.startswith("Failed to load resource: ")
    return entry.type in {"error", "warning"} and not refused


@pytest.fixture
def expect() -> Any:
    """Playwright's assertions, which wait for what they expect."""
    from playwright.sync_api import expect

    expect.set_options(timeout=PATIENCE_MS)
    return expect
