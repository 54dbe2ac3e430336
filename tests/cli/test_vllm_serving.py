"""`unshard serve --engine vllm`: what vLLM is started with, and what is refused before."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType

import pytest
from transformers import AutoTokenizer, OPTConfig

from unshard.cli import vllm_serving
from unshard.cli.main import main
from unshard.vllm.server import SERVER

DEMO_MODEL = Path(__file__).parents[2] / "src/unshard/demo_model"


class Replaced(Exception):  # noqa: N818  (it is no error)
    """Where the program would have become another one."""


@pytest.fixture
def started(monkeypatch, tmp_path):
    """Runs the command line; the program that it became, its folder, and vLLM's flags by name."""
    vllm = ModuleType("vllm")
    vllm.__spec__ = ModuleSpec("vllm", None)
    monkeypatch.setitem(sys.modules, "vllm", vllm)
    monkeypatch.setattr(vllm_serving.tempfile, "mkdtemp", lambda prefix: str(tmp_path))
    found = []

    def become(path, program):
        assert path == program[0] == sys.executable
        found.extend(program[1:])
        raise Replaced

    monkeypatch.setattr(os, "execv", become)

    def run(*arguments):
        with pytest.raises(Replaced):
            main(["serve", *map(str, arguments)])
        assert found[:3] == ["-m", "unshard.vllm.server", str(tmp_path)]
        return found[3:]

    return run


def said(flags):
    """Flag -> the last value, as vLLM's own parser takes it."""
    return {
        flag: value for flag, value in zip(flags, [*flags[1:], ""], strict=True) if flag[:1] == "-"
    }


def test_vllm_is_given_the_checkpoint_and_a_description_of_it(started, tmp_path, monkeypatch):
    monkeypatch.chdir(DEMO_MODEL.parent)
    flags = said(started("demo_model", "--engine", "vllm"))
    assert flags["--model"] == str(tmp_path)
    assert flags["--load-format"] == "unshard"
    assert json.loads(flags["--model-loader-extra-config"]) == {"source": str(DEMO_MODEL)}
    assert flags["--served-model-name"] == "demo_model"
    assert flags["--host"] == "127.0.0.1"
    assert flags["--port"] == "6010"
    assert flags["--dtype"] == "float32"
    assert "--max-num-seqs" not in flags  # vLLM's default is not ours
    assert OPTConfig.from_pretrained(tmp_path).num_attention_heads == 8
    assert AutoTokenizer.from_pretrained(tmp_path)("KING").input_ids[0] == 2
    assert not [path for path in tmp_path.iterdir() if path.stat().st_size > 100_000]


def test_options_are_translated_and_vllms_own_flags_come_last(started):
    ours = ["--host", "0.0.0.0", "--port", "7", "--dtype", "bf16", "--tp", "2", "--max-batch", "5"]
    ours += ["--enforce-eager"]
    theirs = ["--max-model-len", "64", "-O1", "--", "--tp", "4"]
    flags = started(DEMO_MODEL, "--engine", "vllm", *ours, "--model-name", "opt", *theirs)
    assert flags[-5:] == ["--max-model-len", "64", "-O1", "--tp", "4"]
    assert flags.count("--enforce-eager") == 1
    assert "True" not in flags
    found = said(flags)
    assert found["--host"] == "0.0.0.0"
    assert found["--port"] == "7"
    assert found["--dtype"] == "bfloat16"
    assert found["--tensor-parallel-size"] == "2"
    assert found["--max-num-seqs"] == "5"
    assert found["--served-model-name"] == "opt"


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (["--dtype", "int8"], "--dtype int8 is not for --engine vllm"),
        (["--device", "cuda"], "--device is not an option of --engine vllm"),
    ],
)
def test_what_vllm_has_not_is_refused(options, problem, monkeypatch, capsys):
    monkeypatch.setattr(vllm_serving.importlib.util, "find_spec", lambda name: True)
    assert main(["serve", str(DEMO_MODEL), "--engine", "vllm", *options]) == 2
    assert problem in capsys.readouterr().err


def test_without_vllm_the_extra_is_named(monkeypatch, capsys):
    monkeypatch.setattr(vllm_serving.importlib.util, "find_spec", lambda name: None)
    assert main(["serve", str(DEMO_MODEL), "--engine", "vllm"]) == 2
    assert "pip install 'unshard[vllm]'" in capsys.readouterr().err


def test_without_a_tokenizer_it_says_so_or_takes_another(started, raw, capsys, monkeypatch):
    assert main(["serve", str(raw[0]), "--engine", "vllm"]) == 2
    assert "has no tokenizer" in capsys.readouterr().err
    assert said(started(raw[0], "--engine", "vllm", "--tokenizer=x"))["--tokenizer=x"] == ""


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["x", "--max-batsh", "3"], "No such option '--max-batsh'. Did you mean '--max-batch'?"),
        (["x", "--max-model-len"], "No such option '--max-model-len'"),
        (["--max-model-len", "x", "--engine", "vllm"], "No such option '--max-model-len'"),
        (["x", "y"], "more arguments than it takes"),
    ],
)
def test_our_own_engine_takes_no_flags_that_it_does_not_know(arguments, error, capsys):
    assert main(["serve", *arguments]) == 2
    assert error in capsys.readouterr().err


# The process that becomes vLLM's server


VLLM = {
    "vllm/model_executor/model_loader/__init__": "register_model_loader = lambda name: id",
    "vllm/model_executor/model_loader/base_loader": "class BaseModelLoader: pass",
}


@pytest.fixture
def served(tmp_path):
    """Starts the server's program with a vLLM of these lines; waits for its first line."""
    running = []

    def start(*lines):
        for name, content in (VLLM | {SERVER.replace(".", "/"): "\n".join(lines)}).items():
            path = tmp_path / f"{name}.py"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content + "\n")
        folder = tmp_path / "described"
        folder.mkdir()
        process = subprocess.Popen(
            [sys.executable, "-u", "-m", "unshard.vllm.server", str(folder), "--flag", "x"],
            cwd=tmp_path, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        running.append(process)
        return process, process.stdout.readline().strip(), folder

    yield start
    for process in running:
        process.kill()
        process.wait()
        process.stdout.close()


WAITS = ("import sys, signal", "print(sys.argv[1:], __name__)", "signal.pause()")


@pytest.mark.parametrize(
    ("number", "exit_code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["int", "term"]
)
def test_a_signal_ends_it_and_its_folder(number, exit_code, served):
    process, first, folder = served(*WAITS)
    assert first == "['--flag', 'x'] __main__"
    process.send_signal(number)
    assert process.wait(20) == exit_code
    assert not folder.exists()


def test_the_exit_code_is_vllms(served):
    process, _, folder = served("print(1)", "import sys", "sys.exit(7)")
    assert process.wait(20) == 7
    assert not folder.exists()


@pytest.mark.slow
def test_vllms_own_processes_end_with_a_server_that_was_killed(served):
    process, _, _ = served(
        "import multiprocessing, os, signal, sys",
        "def work(pipe):",
        "    import unshard.vllm.loader",
        "    unshard.vllm.loader.register()",
        "    pipe.send(os.getpid())",
        "    signal.pause()",
        "ours, theirs = multiprocessing.get_context('fork').Pipe()",
        "multiprocessing.get_context('fork').Process(target=work, args=(theirs,)).start()",
        "print(ours.recv())",
        "signal.pause()",
    )
    process.kill()
    assert process.stdout.read() == ""  # which comes when the last process that could write is gone
