"""docs/clients.md: each example runs, unchanged but for the port, against the bundled model."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from lm_eval_tasks import PROMPTS, write_tasks

pytestmark = [pytest.mark.clients, pytest.mark.timeout(600)]

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/clients.md").read_text()
ADDRESS = "http://127.0.0.1:6010"
CONSOLE = re.findall(r"^```console\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
PYTHON = re.findall(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
BINARIES = Path(sys.executable).parent


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the page's commands run."""
    folder = tmp_path_factory.mktemp("clients")
    (folder / "opt-125m").symlink_to(ROOT / "src/unshard/demo_model")
    write_tasks(folder / "tasks")
    return folder


@pytest.fixture(scope="module")
def url(folder: Path) -> Iterator[str]:
    [command] = re.findall(r"^\$ unshard (serve .*)$", PAGE, re.MULTILINE)
    serve = [BINARIES / "unshard", *shlex.split(command), "--port", "0"]
    with subprocess.Popen(serve, cwd=folder, stderr=subprocess.PIPE, text=True) as process:
        try:
            line = next(line for line in process.stderr if line.startswith("serving "))
            yield line.split()[3]
            process.send_signal(signal.SIGTERM)
            assert process.wait(timeout=60) == 0
        finally:
            process.kill()


def run(folder: Path, command: list[str], given: str = "") -> str:
    """What the command says. The clients ask nothing of the world."""
    offline = {
        "PATH": f"{BINARIES}:{os.environ['PATH']}", "HF_HOME": str(folder / "hf"),
        "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        "NO_PROXY": "127.0.0.1",
    }  # fmt: skip
    done = subprocess.run(
        command, check=False, cwd=folder, env={**os.environ, **offline}, input=given,
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def console(folder: Path, url: str, word: str) -> str:
    """Runs the page's block of commands that holds `word`."""
    [block] = [block for block in CONSOLE if word in block]
    script = re.sub(r"^\$ ", "", block, flags=re.MULTILINE).replace(ADDRESS, url)
    return run(folder, ["bash", "-e", "-c", script])


def python(folder: Path, url: str, word: str) -> str:
    [block] = [block for block in PYTHON if word in block]
    return run(folder, [sys.executable, "-"], block.replace(ADDRESS, url))


def test_curl_and_litellm_are_told_the_same(folder: Path, url: str) -> None:
    curl = json.loads(console(folder, url, "curl -s"))["choices"][0]
    assert curl["finish_reason"] == "length"
    assert len(curl["logprobs"]["tokens"]) == 24
    assert python(folder, url, "litellm").strip()


def test_openai(folder: Path, url: str) -> None:
    said = python(folder, url, "from openai")
    assert re.findall(r"^([01]) (?:stop|length) ", said, re.MULTILINE) == ["0", "1"]


def samples(folder: Path, output: str) -> dict[tuple[str, int], list[object]]:
    """lm-eval's answers by task and document."""
    found = {}
    for path in (folder / output).rglob("samples_*.jsonl"):
        for line in path.read_text().splitlines():
            sample = json.loads(line)
            found[path.name.split("_")[1], sample["doc_id"]] = sample["resps"]
    return found


def test_lm_eval_scores_as_with_its_own_backend(folder: Path, url: str) -> None:
    console(folder, url, "local-completions")
    run(folder, [
        "lm_eval", "--model", "hf", "--model_args", "pretrained=opt-hf,dtype=float32",
        "--device", "cpu", "--tasks", "endings,lines", "--include_path", "tasks",
        "--output_path", "expected", "--log_samples",
    ])  # fmt: skip
    scores, expected = samples(folder, "scores"), samples(folder, "expected")
    assert scores.keys() == expected.keys()
    assert len(scores) == 2 * len(PROMPTS)
    for (task, document), answer in scores.items():
        if task == "lines":
            assert answer == expected[task, document]
            continue
        for [[logprob, is_greedy]], [[right, was_greedy]] in zip(
            answer, expected[task, document], strict=True
        ):
            assert float(logprob) == pytest.approx(float(right), abs=1e-3)
            assert is_greedy == was_greedy
