"""What a command does not load, it does not wait for."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

EXTRAS = {"torch", "llvmlite", "ray", "openai", "fastapi", "pydantic", "tokenizers"}
UNWANTED = {
    "--help": EXTRAS | {"numpy", "urllib3", "rich"},
    "serve": EXTRAS | {"numpy", "urllib3", "rich"},
    "generate": EXTRAS | {"numpy", "urllib3", "rich"},
    "score": EXTRAS | {"numpy", "urllib3", "rich"},
    "demo": EXTRAS | {"numpy", "urllib3", "rich"},
    "verify": EXTRAS | {"numpy", "urllib3"},
    "download": EXTRAS | {"numpy"},
    "reshard": EXTRAS | {"urllib3"},
}
"""What must not have been imported when the arguments of a command are looked at."""

PROGRAM = """
import json, sys
from unshard.cli.main import unshard
for command in sys.argv[1:]:
    if command in unshard.list_commands(None):
        unshard.get_command(None, command)
    print(json.dumps(sorted(sys.modules)))
"""


@pytest.mark.parametrize(
    "commands",
    [["--help", "serve", "generate", "score", "demo", "verify", "download"], ["reshard"]],
)
def test_a_command_loads_no_more_than_it_needs(commands: list[str]) -> None:
    """One process loads one after the other, those with the fewest needs first."""
    program = [sys.executable, "-c", PROGRAM, *commands]
    lines = subprocess.check_output(program, text=True).splitlines()
    for command, line in zip(commands, lines, strict=True):
        assert not UNWANTED[command] & set(json.loads(line)), command
