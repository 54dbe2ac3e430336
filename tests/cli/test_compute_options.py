"""The options of computing mean the same to every command that has them."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

from unshard.cli.main import main

DEMO_MODEL = Path(__file__).parents[2] / "src/unshard/demo_model"


@pytest.mark.parametrize("eager", [False, True])
@pytest.mark.parametrize(
    ("module", "command"),
    [
        ("generation", ["generate", "SRC", "x"]),
        ("line_generation", ["generate", "SRC", "--input", "FILE"]),
        ("scoring", ["score", "SRC", "FILE"]),
    ],
)
def test_enforce_eager_reaches_the_model(module, command, eager, tmp_path, monkeypatch):
    (tmp_path / "lines").write_text("x\n")
    places = {"SRC": str(DEMO_MODEL), "FILE": str(tmp_path / "lines")}
    seen = []
    # A rank that follows is done with its work here: nothing is loaded.
    monkeypatch.setattr(
        importlib.import_module(f"unshard.cli.{module}"),
        "followed",
        lambda checkpoint, options: seen.append(options) or True,
    )
    flags = ["--enforce-eager"] if eager else []
    assert main([places.get(word, word) for word in command] + flags) == 0
    assert [options.compute.enforce_eager for options in seen] == [eager]
