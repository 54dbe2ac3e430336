"""`unshard serve` on the bundled model, as a user runs it."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from importlib.resources import as_file, files
from pathlib import Path

import httpx
import pytest

pytestmark = pytest.mark.slow


def start(*arguments: str | Path) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-m", "unshard", "serve", *arguments], stderr=subprocess.PIPE, text=True
    )


@pytest.fixture(scope="module")
def model_folder() -> Iterator[Path]:
    with as_file(files("unshard") / "demo_model") as folder:
        yield folder


@pytest.fixture(scope="module")
def url(model_folder: Path) -> Iterator[str]:
    with start(model_folder, "--port", "0", "--model-name", "demo") as process:
        try:
            line = next(line for line in process.stderr if line.startswith("serving "))
            assert line.startswith("serving demo on http://127.0.0.1:")
            yield line.split()[3]
            process.send_signal(signal.SIGTERM)
            assert process.communicate(timeout=60)[1] == ""
            assert process.returncode == 0
        finally:
            process.kill()


@pytest.fixture
def client(url: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=url, timeout=60) as client:
        yield client


def test_a_real_model_answers_alike_streamed_and_whole(client):
    body = {"prompt": "ROMEO.\n", "max_tokens": 24, "seed": 7, "logprobs": 2, "echo": True}
    whole = client.post("/v1/completions", json=body).json()["choices"][0]
    assert client.post("/v1/completions", json=body).json()["choices"][0] == whole
    starts = whole["logprobs"]["text_offset"]
    pieces = [whole["text"][a:b] for a, b in zip(starts, [*starts[1:], None], strict=True)]
    assert "".join(pieces) == whole["text"]
    assert pieces == whole["logprobs"]["tokens"]
    first, *others = whole["logprobs"]["token_logprobs"]
    assert first is None
    assert None not in others


def test_a_continuation_scores_as_it_was_generated_and_is_greedy(client, model_folder):
    case = json.loads((model_folder / "golden.json").read_text())["cases"][1]
    prompt, rest = case["prompt_ids"], case["greedy_ids"]
    fields = {"temperature": 0, "logprobs": 1}
    body = {"prompt": prompt, "max_tokens": len(rest), **fields}
    written = client.post("/v1/completions", json=body).json()["choices"][0]
    body = {"prompt": prompt + rest, "max_tokens": 1, "echo": True, **fields}
    scored = client.post("/v1/completions", json=body).json()["choices"][0]
    assert written["text"] == case["greedy_text"]
    assert scored["text"].startswith(case["prompt"] + case["greedy_text"])
    logprobs = scored["logprobs"]["token_logprobs"]
    assert logprobs[0] is None  # the case's own </s>
    got = logprobs[len(prompt) : -1]
    assert got == pytest.approx(written["logprobs"]["token_logprobs"], abs=1e-4)
    assert got == [max(t.values()) for t in scored["logprobs"]["top_logprobs"][len(prompt) : -1]]


def test_a_taken_port_is_said_before_the_weights_are_read(url, model_folder):
    with start(model_folder, "--port", url.rsplit(":", 1)[1]) as process:
        _, err = process.communicate(timeout=60)
    assert process.returncode == 1
    error, hint = err.splitlines()
    assert error.startswith("error: cannot listen on 127.0.0.1 port ")
    assert "--port 0" in hint


def test_a_port_that_others_reach_is_said_to_be_open(model_folder, tmp_path):
    keys = tmp_path / "keys"
    keys.write_text("a-key\n")
    for host, options, is_said in (
        ("0.0.0.0", (), True),
        ("0.0.0.0", ("--api-key-file", keys), False),
    ):
        with start(model_folder, "--host", host, "--port", "0", *options) as process:
            url = process.stderr.readline().split()[3].replace(host, "127.0.0.1")
            refused = httpx.get(f"{url}/v1/models").status_code
            process.send_signal(signal.SIGTERM)
            rest = process.stderr.read()
        assert ("--api-key-file" in rest) == is_said
        assert refused == (200 if is_said else 401)


def test_ctrl_c_says_what_it_waits_for_and_again_ends_it(model_folder):
    body = {"prompt": "ROMEO.\n", "max_tokens": 500, "stream": True, "min_tokens": 500}
    with start(model_folder, "--port", "0", "--drain-seconds", "3600") as process:
        url = process.stderr.readline().split()[3]
        with httpx.stream("POST", f"{url}/v1/completions", json=body, timeout=60) as answer:
            lines = answer.iter_lines()
            next(lines)
            process.send_signal(signal.SIGINT)
            said = process.stderr.readline()
            process.send_signal(signal.SIGINT)
            assert any("shutting down" in line for line in lines)
        assert process.stderr.read() == ""
    assert process.returncode == 0
    assert said == "ending: open requests (1) have 3600 s to finish; Ctrl-C again ends now\n"
