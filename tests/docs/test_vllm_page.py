"""docs/vllm.md: its commands start vLLM as it says, its reshard and its Python run."""

from __future__ import annotations

import itertools
import os
import re
import shlex
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType

import pytest

from unshard.cli.main import main
from unshard.cli.vllm_serving import DTYPES, FLAGS
from unshard.vllm import LOAD_FORMAT

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/vllm.md").read_text()
DEMO_MODEL = ROOT / "src/unshard/demo_model"
SERVES = re.findall(r"^\$ unshard (serve .*)$", PAGE, re.MULTILINE)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("opt-175b").symlink_to(DEMO_MODEL)
    return tmp_path


@pytest.mark.parametrize("command", SERVES)
def test_vllm_is_started_with_its_flags(command, folder, monkeypatch):
    """vLLM needs its extra: up to the program that this one becomes."""
    vllm = ModuleType("vllm")
    vllm.__spec__ = ModuleSpec("vllm", None)
    monkeypatch.setitem(sys.modules, "vllm", vllm)
    monkeypatch.setattr("tempfile.mkdtemp", lambda prefix: str(folder))
    become = []
    monkeypatch.setattr(os, "execv", lambda path, program: become.append(program))
    assert main(shlex.split(command)) == 0
    [program] = become
    said = dict(itertools.pairwise(program))
    assert said["--load-format"] == LOAD_FORMAT
    if "--tp 8" in command:
        assert said["--tensor-parallel-size"] == "8"
        assert said["--dtype"] == "bfloat16"
    else:
        assert program[-4:] == ["--max-model-len", "1024", "--gpu-memory-utilization", "0.8"]


def test_both_ways_are_shown():
    assert len(SERVES) == 2


def test_the_table_of_flags_is_the_programs():
    rows = dict(re.findall(r"^\| (`--[^|]*) \| (.*) \|$", PAGE, re.MULTILINE))
    for name, theirs in FLAGS.items():
        ours = f"`--{name.replace('_', '-')}"
        [value] = [value for key, value in rows.items() if ours in key]
        assert value == "the same" or theirs in value
    assert all(f"`{name}`" in PAGE or f"--dtype {name}`" in PAGE for name in DTYPES)


def test_the_export_for_others_runs(folder):
    [command] = re.findall(r"^\$ unshard (reshard .*)$", PAGE, re.MULTILINE)
    assert main(shlex.split(command)) == 0
    destination = shlex.split(command)[2]
    assert {"config.json", "tokenizer_config.json", "vocab.json", "model.safetensors"} <= {
        path.name for path in Path(destination).iterdir()
    }
    others = re.findall(r"`[^`]*(?:--model-path|--model-id|--model) ([^` ]+)", PAGE)
    assert {name.removeprefix("./") for name in others} == {destination}
    assert len(others) == 3


def test_its_python_runs(folder):
    [code] = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    exec(code, {})
    described = {path.name for path in Path("opt-175b-config").iterdir()}
    assert {"config.json", "tokenizer_config.json", "merges.txt"} <= described


def test_links_exist():
    for link in re.findall(r"\]\(([^)#]+)", PAGE):
        assert link.startswith("https:") or (ROOT / "docs" / link).exists(), link
