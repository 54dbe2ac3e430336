"""vLLM itself (its CPU build, in an environment of its own: `make vllm`) on the raw checkpoint."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.processes import family, is_running

import unshard
from unshard.architectures.opt import weight_names

ROOT = Path(__file__).parents[2]
DEMO_MODEL = ROOT / "src/unshard/demo_model"
WITH_VLLM = ROOT / ".venv-vllm/bin/unshard"
RANKS = 2
FLAGS = ("--enforce-eager", "--gpu-memory-utilization", "0.1", "--max-num-seqs", "4")
PROMPTS = ("KING RICHARD:", "To be, or not to be\n\nHAMLET.", "café ‘quotes’")

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.timeout(900),
    pytest.mark.skipif(not WITH_VLLM.exists(), reason="no environment with vLLM: make vllm"),
]


@dataclass
class Served:
    process: subprocess.Popen[str]
    url: str
    log: Path
    start_seconds: float


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """`unshard serve --engine vllm --tp 2`, when it answers."""
    log = tmp_path_factory.mktemp("vllm") / "log"
    with socket.create_server(("127.0.0.1", 0)) as found:
        port = found.getsockname()[1]
    command = [WITH_VLLM, "serve", DEMO_MODEL, "--engine", "vllm", "--port", port, "--tp", RANKS]
    # The CPU build has no place of its own for two ranks on one memory node.
    environment = os.environ | {"VLLM_CPU_OMP_THREADS_BIND": "0|1", "VLLM_NO_USAGE_STATS": "1"}
    start = time.monotonic()
    with log.open("w") as out:
        process = subprocess.Popen(
            [*map(str, command), *FLAGS], stdout=out, stderr=out, env=environment, text=True
        )
    url = f"http://127.0.0.1:{port}"
    while not answers(f"{url}/health"):
        assert process.poll() is None, log.read_text()[-5000:]
        time.sleep(0.2)
    yield Served(process, url, log, time.monotonic() - start)
    process.kill()
    process.wait()


@pytest.fixture(scope="module")
def ours() -> Iterator[str]:
    """Where our own engine serves the same."""
    command = [sys.executable, "-m", "unshard", "serve", str(DEMO_MODEL), "--port", "0"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    url = re.search(r"http://\S+", process.stderr.readline())
    yield url[0]
    process.kill()
    process.wait()
    process.stderr.close()


def answers(url: str) -> bool:
    with contextlib.suppress(urllib.error.URLError, ConnectionError):
        return urllib.request.urlopen(url, timeout=30).status == 200
    return False


def completion(url: str, prompt: str) -> tuple[str, str, int]:
    asked = {"model": "demo_model", "prompt": prompt, "max_tokens": 60, "temperature": 0}
    request = urllib.request.Request(
        f"{url}/v1/completions",
        json.dumps(asked).encode(),
        {"content-type": "application/json"},
    )
    answer = json.load(urllib.request.urlopen(request, timeout=300))
    [choice] = answer["choices"]
    return choice["text"], choice["finish_reason"], answer["usage"]["prompt_tokens"]


@pytest.mark.parametrize("prompt", PROMPTS)
def test_greedy_answers_are_ours(prompt: str, served: Served, ours: str) -> None:
    assert completion(served.url, prompt) == completion(ours, prompt)


def test_each_rank_read_its_bytes_and_no_others(served: Served) -> None:
    checkpoint = unshard.open(DEMO_MODEL)
    said = re.findall(r"TP(\d) .*unshard: read (\d+) bytes", served.log.read_text())
    num_read = {int(rank): int(count) for rank, count in said}
    assert len(num_read) == RANKS
    for rank, count in num_read.items():
        local = checkpoint.local(rank, RANKS)
        assert count == sum(local[name].nbytes for name in weight_names(local))
    print(f"ready after {served.start_seconds:.1f} s; bytes by rank: {num_read}")  # noqa: T201


def test_only_this_machine_can_connect(served: Served) -> None:
    pids = set(family(served.process.pid))
    inodes = set()
    for pid in pids:
        for number in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(OSError):
                inodes.update(re.findall(r"socket:\[(\d+)\]", str(number.readlink())))
    tables = [Path(f"/proc/net/{table}").read_text().splitlines()[1:] for table in ("tcp", "tcp6")]
    listening = [row.split() for rows in tables for row in rows if row.split()[3] == "0A"]
    addresses = {row[1].rpartition(":")[0] for row in listening if row[9] in inodes}
    assert addresses == {"0100007F"}


def test_ctrl_c_ends_all_of_it(served: Served) -> None:
    """The last test of this file."""
    _, *pids = family(served.process.pid)
    assert len(pids) > RANKS
    served.process.send_signal(signal.SIGINT)
    assert served.process.wait(120) in {0, 130}
    while any(map(is_running, pids)):
        time.sleep(0.1)
