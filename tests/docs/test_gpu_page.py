"""docs/gpu.md: its commands are ones that the benchmark takes."""

from __future__ import annotations

import ast
import re
import shlex
from pathlib import Path

from unshard.library.precisions import PRECISIONS

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/gpu.md").read_text()
PROGRAM = (ROOT / "benchmarks/gpu.py").read_text()


def test_its_options_shapes_and_dtypes_are_the_benchmarks() -> None:
    """What they do is tested in tests/benchmarks/test_gpu.py."""
    tables = {
        target.id: {key.value for key in node.value.keys}
        for node in ast.parse(PROGRAM).body
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Dict)
        for target in node.targets
    }
    commands = re.findall(r"^\$ python benchmarks/gpu.py (.*)$", PAGE, re.MULTILINE)
    assert len(commands) == 4
    for line in commands:
        words = shlex.split(line)
        told = dict(zip(words[::2], words[1::2], strict=True))
        assert all(f'add_argument("{option}"' in PROGRAM for option in told)
        assert told["--shape"] in tables["SHAPES"]
        assert told["--dtype"] in PRECISIONS


def test_links_exist() -> None:
    for link in re.findall(r"\]\(([^)#]+)\)", PAGE):
        assert (ROOT / "docs" / link).exists(), link
