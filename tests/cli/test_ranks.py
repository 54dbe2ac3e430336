"""`--tp N` as a user runs it: the same text, and nothing left behind however it ends."""

from __future__ import annotations

import http.client
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.processes import children, is_running

import unshard
from unshard.architectures.opt import OPTConfig
from unshard.cli.main import main
from unshard.testing.tiny_parts import write_tiny_parts

DEMO_MODEL = Path(unshard.__file__).parent / "demo_model"
UNSHARD = (sys.executable, "-m", "unshard")
TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "-m", "unshard")
GREEDY = ("--temperature", "0", "--seed", "1", "--max-tokens", "48")
GONE_SECONDS = 60
"""Each takes about one; what waited for the end of a text, or for a peer, would take longer."""


def unshard_says(*arguments: str, command: tuple[str, ...] = UNSHARD) -> str:
    done = subprocess.run(
        [*command, *arguments], capture_output=True, text=True, check=False, timeout=280
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("precision", ["fp32", "int4"])
def test_two_ranks_continue_as_one_does(precision: str) -> None:
    arguments = ("generate", str(DEMO_MODEL), "ROMEO.\n", *GREEDY, "--dtype", precision)
    alone = unshard_says(*arguments)
    assert len(alone) > 50
    assert unshard_says(*arguments, "--tp", "2") == alone
    assert unshard_says(*arguments, command=TORCHRUN) == alone


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_two_ranks_continue_as_one_does_with_a_narrow_embedding(tmp_path: Path) -> None:
    """Norms after the sums, projections of the embedding, a vocabulary that does not divide."""
    config = OPTConfig(3, 64, 4, 96, 1537, 128, 32, pre_norm=False)
    write_tiny_parts(tmp_path, config, tp_size=1, name="reshard.pt")
    for name in ("gpt2-vocab.json", "gpt2-merges.txt"):
        shutil.copy(DEMO_MODEL / name, tmp_path)
    arguments = ("generate", str(tmp_path), "ROMEO.\n", *GREEDY)
    assert unshard_says(*arguments, "--tp", "2") == unshard_says(*arguments)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("command", [UNSHARD, TORCHRUN])
def test_two_ranks_answer_a_file_of_lines_as_one_does(command, tmp_path: Path) -> None:
    texts = ["ROMEO.\n", "And so, my lord", "x", "the king of men " * 40]
    for field in ("text", "prompt"):
        lines = "".join(json.dumps({field: text}) + "\n" for text in texts)
        (tmp_path / f"{field}.jsonl").write_text(lines)
    options = ("--tp", "2") if command is UNSHARD else ()
    generate = ("generate", str(DEMO_MODEL), "--input", str(tmp_path / "prompt.jsonl"), *GREEDY)
    assert unshard_says(*generate, *options, command=command) == unshard_says(*generate)
    score = ("score", str(DEMO_MODEL), str(tmp_path / "text.jsonl"))
    alone, together = (
        [json.loads(line)["log_likelihood"] for line in said.splitlines()[:-1]]
        for said in (unshard_says(*score), unshard_says(*score, *options, command=command))
    )
    assert len(alone) == len(texts)
    assert together == pytest.approx(alone, abs=1e-3)


@pytest.mark.slow
def test_a_killed_worker_answers_no_line_with_an_error(tmp_path: Path) -> None:
    lines, output = tmp_path / "lines.jsonl", tmp_path / "out.jsonl"
    lines.write_text('{"prompt": "x", "max_tokens": 1}\n' + '{"prompt": "x"}\n' * 500)
    command = ("generate", str(DEMO_MODEL), "--input", str(lines), "--output", str(output))
    longest = ("--max-tokens", "500", "--max-batch", "2", "--tp", "2")
    with subprocess.Popen([*UNSHARD, *command, *longest], stderr=subprocess.PIPE) as process:
        while not (output.exists() and output.read_bytes().count(b"\n")):
            assert process.poll() is None
            time.sleep(0.01)
        (worker,) = children(process.pid)
        os.kill(worker, signal.SIGKILL)
        assert process.wait(GONE_SECONDS) == 5
        assert process.stderr.read().endswith(b"error: rank 1 of 2 was ended by SIGKILL\n")
    assert b'"error"' not in output.read_bytes()


@pytest.mark.parametrize(
    ("options", "error"),
    [
        (("--tp", "3"), "8 attention heads do not divide by 3 tensor-parallel ranks"),
        (("--tp", "2", "--dtype", "int8"), "int8 does not run on several ranks yet"),
        (("--tp", "2", "--device", "cuda:1"), "cuda:1 is one device, and there are 2 ranks"),
    ],
)
def test_what_cannot_be_split_is_said_before_a_rank_is_started(options, error, capsys) -> None:
    assert main(["generate", str(DEMO_MODEL), "x", *options]) == 2
    told = capsys.readouterr().err
    assert error in told
    assert "hint: " in told


def test_torchrun_and_the_option_have_to_agree(monkeypatch, capsys) -> None:
    launched = {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}
    for name, value in launched.items():
        monkeypatch.setenv(name, value)
    assert main(["generate", str(DEMO_MODEL), "x", "--tp", "4"]) == 2
    assert "--tp 4, but 2 ranks were started" in capsys.readouterr().err


def ask(url: str) -> http.client.HTTPResponse:
    """Begins a completion of 500 tokens, the first of which is there."""
    asked = {"prompt": "x", "max_tokens": 500, "logit_bias": {"2": -99}, "stream": True}
    request = urllib.request.Request(
        f"{url}/v1/completions",
        json.dumps({"model": "demo_model"} | asked).encode(),
        {"content-type": "application/json"},
    )
    answer = urllib.request.urlopen(request, timeout=100)
    assert answer.readline().startswith(b"data: ")
    return answer


class Server:
    """`unshard serve --tp 2`, ready."""

    def __init__(self) -> None:
        command = [*UNSHARD, "serve", str(DEMO_MODEL), "--port", "0", "--tp", "2"]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        ready = self.process.stderr.readline()
        self.url = re.search(r"http://\S+", ready)[0]
        (self.worker,) = children(self.process.pid)

    def ask(self) -> http.client.HTTPResponse:
        return ask(self.url)


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    yield server
    server.process.kill()
    server.process.wait()
    server.process.stderr.close()


@pytest.mark.slow
@pytest.mark.parametrize("busy", [False, True])
def test_a_killed_worker_ends_the_server_with_its_name(server: Server, busy: bool) -> None:
    answer = server.ask() if busy else None
    os.kill(server.worker, signal.SIGKILL)
    assert server.process.wait(GONE_SECONDS) == 5
    assert not is_running(server.worker)
    told = server.process.stderr.read().splitlines()
    assert told[-1] == "error: rank 1 of 2 was ended by SIGKILL"
    if answer is not None:
        with answer:
            assert b"error" in answer.read()


@pytest.mark.slow
@pytest.mark.parametrize("busy", [False, True])
def test_a_killed_server_takes_its_ranks_with_it(server: Server, busy: bool) -> None:
    answer = server.ask() if busy else None
    killed = time.monotonic()
    server.process.kill()
    while is_running(server.worker):
        assert time.monotonic() - killed < GONE_SECONDS
        time.sleep(0.01)
    if answer is not None:
        answer.close()


@pytest.mark.slow
def test_ctrl_c_ends_all_ranks_in_peace(server: Server) -> None:
    server.process.send_signal(signal.SIGINT)
    assert server.process.wait(GONE_SECONDS) == 0
    assert server.process.stderr.read() == ""
    assert not is_running(server.worker)


@pytest.mark.slow
def test_torchrun_that_is_told_to_end_lets_a_text_end() -> None:
    """It tells all ranks of the machine."""
    options = ("--port", "0", "--drain-seconds", "60")
    command = [*TORCHRUN, "serve", str(DEMO_MODEL), *options]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            told = iter(process.stderr.readline, "")
            url = next(ready[0] for line in told if (ready := re.search(r"http://\S+", line)))
            with ask(url) as answer:
                process.send_signal(signal.SIGTERM)
                assert answer.read().endswith(b"data: [DONE]\n\n")
            rest = process.stderr.read()
            assert "ending: open requests (1)" in rest
            assert "gone" not in rest
        finally:
            process.kill()


@pytest.mark.slow
def test_ctrl_c_in_the_middle_of_a_text() -> None:
    arguments = ("generate", str(DEMO_MODEL), "ROMEO.", "--max-tokens", "500", "--tp", "2")
    with subprocess.Popen(
        [*UNSHARD, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout.read(8)
        (worker,) = children(process.pid)
        process.send_signal(signal.SIGINT)
        assert process.wait(GONE_SECONDS) == 130
        assert process.stderr.read().split() == ["interrupted"]
        assert not is_running(worker)


@pytest.mark.slow
def test_a_rank_that_ends_before_the_group_is_there() -> None:
    command = [*UNSHARD, "generate", str(DEMO_MODEL), "x", "--tp", "2"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        while not children(process.pid):
            assert process.poll() is None
            time.sleep(0.001)
        (worker,) = children(process.pid)
        os.kill(worker, signal.SIGTERM)
        assert process.wait(GONE_SECONDS) == 5
        assert process.stderr.read().endswith(b"error: rank 1 of 2 was ended by SIGTERM\n")
