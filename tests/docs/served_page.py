"""Pages whose examples ask a server: started as they say, on the bundled model."""

from __future__ import annotations

import contextlib
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx

ROOT = Path(__file__).parents[2]
DEMO_MODEL = ROOT / "src/unshard/demo_model"
ADDRESS = "http://127.0.0.1:6010"


def commands(page: str, name: str) -> list[list[str]]:
    """The words of each command of `page` that begins with `name`."""
    blocks = re.findall(r"```console\n(.*?)```", page, re.DOTALL)
    lines = [line for block in blocks for line in re.split(r"^\$ ", block, flags=re.MULTILINE)]
    split = [shlex.split(line.replace("\\\n", "")) for line in lines]
    return [words for words in split if words and words[0] == name]


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", page, re.DOTALL)


@contextlib.contextmanager
def serving(command: list[str], folder: Path) -> Iterator[str]:
    """The address of the server that `command` starts, with the bundled model under the name of
    the real one."""
    link = folder / "opt-175b"
    link.symlink_to(DEMO_MODEL)
    words = [{"6010": "0"}.get(word, word) for word in command[1:]]
    with subprocess.Popen(
        [sys.executable, "-m", "unshard", *words, "--model-name", "opt-175b"],
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


def ask(curl: list[str], url: str) -> dict:
    """What `curl` would, which need not be installed."""
    _, address, header, kind, data, body = curl
    assert (header, data) == ("-H", "-d")
    name, _, value = kind.partition(": ")
    path = httpx.URL(address).path
    answer = httpx.post(f"{url}{path}", content=body, headers={name: value}, timeout=60)
    assert answer.status_code == 200, answer.text
    return answer.json()
