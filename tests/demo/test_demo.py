"""`unshard demo` and `unshard generate`, as a user runs them."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

LEFT_OUT = "…"
"""A line of the README for any number of lines of the demo."""

DEMO_MODEL = Path(__file__).parents[2] / "src/unshard/demo_model"


def unshard(*arguments: str, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "unshard", *arguments],
        input=stdin, capture_output=True, text=True, timeout=110, check=False,
    )  # fmt: skip


@pytest.mark.slow
def test_demo_once(tmp_path: Path) -> None:
    done = unshard("demo", "--once", "--dir", str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert "identical: 68 tensors" in done.stdout
    first, second = re.findall(r"^[0-9a-f]{64}$", done.stdout, re.MULTILINE)
    assert first == second
    assert "finish_reason" in done.stdout
    assert "Signature=" not in (done.stdout + done.stderr).replace("Signature=…", "")


def stable(text: str) -> list[str]:
    """The lines of a demo's output without what differs from run to run."""
    changing = re.compile(r"127\.0\.0\.1:\d+|--port \d+|\d+ of 10|\([\d.]+ .?B in .*|took \d+ s")
    return [changing.sub("#", line).rstrip() for line in text.strip().splitlines() if line.strip()]


@pytest.mark.slow
def test_the_readme_shows_what_the_demo_prints(tmp_path: Path) -> None:
    readme = (Path(__file__).parents[2] / "README.md").read_text()
    shown = re.findall(r"```text\n(.*?)```", readme, re.DOTALL)[0]
    done = subprocess.run(
        [sys.executable, "-m", "unshard", "demo", "--once", "--dir", str(tmp_path)],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=110, check=True,
    )  # fmt: skip
    printed = iter(stable(done.stdout))
    lines = stable(shown)
    for before, line in zip(["", *lines], lines, strict=False):
        if line == LEFT_OUT:
            continue
        found = next(printed, None)
        while before == LEFT_OUT and found not in {line, None}:
            found = next(printed, None)
        assert found == line
    assert next(printed, None) is None


@pytest.mark.slow
def test_generate_is_reproducible() -> None:
    arguments = ("generate", str(DEMO_MODEL), "ROMEO.\n", "--max-tokens", "20", "--seed", "3")
    first, second = unshard(*arguments), unshard(*arguments)
    assert first.returncode == 0, first.stderr
    assert first.stdout == second.stdout
    assert first.stdout.startswith("ROMEO.\n")
    assert "20 tokens in" in first.stderr


@pytest.mark.slow
def test_generate_several_from_stdin() -> None:
    done = unshard(
        "generate", str(DEMO_MODEL), "-", "-n", "2", "--max-tokens", "5", stdin="KING.\n"
    )
    assert done.returncode == 0, done.stderr
    assert "--- 0\nKING.\n" in done.stdout
    assert "--- 1\nKING.\n" in done.stdout


@pytest.mark.slow
def test_prompt_longer_than_the_context_is_refused() -> None:
    done = unshard("generate", str(DEMO_MODEL), "word " * 2000)
    assert done.returncode == 2
    [error, *hints] = done.stderr.splitlines()
    assert error.startswith("error: ")
    assert "512" in error
    assert len(hints) <= 1
