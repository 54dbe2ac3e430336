"""docs/serving.md: its commands serve, its tables are the server's."""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
from click.testing import CliRunner

from unshard import errors
from unshard.cli import serve
from unshard.engine.block_pool import BLOCK_TOKENS, CacheUse
from unshard.engine.statistics import EngineStatistics
from unshard.server import limits
from unshard.server.access import MAX_LOGGED_BYTES
from unshard.server.manners import Manners
from unshard.server.metrics import Metrics

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/serving.md").read_text()


def rows(heading: str) -> list[list[str]]:
    """The cells of the table that begins with `heading`, without its head."""
    table = PAGE[PAGE.index(heading) :].split("\n\n")[0]
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines()[2:]]


def test_its_commands_are_understood(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    Path("keys.txt").write_text("a-key\n")
    asked = []
    monkeypatch.setattr(serve, "serve", lambda source, **options: asked.append(options))
    commands = re.findall(r"^\$ unshard serve (.*)$", PAGE, re.MULTILINE)
    for line in commands:
        outcome = CliRunner().invoke(serve.command, line.split(), catch_exceptions=False)
        assert outcome.exit_code == 0, outcome.output
    first, second = (SimpleNamespace(**options) for options in asked)
    assert (first.host, first.manners) == (
        "0.0.0.0",
        Manners(api_keys=("a-key",), access_log=True),
    )
    assert (second.port, second.manners) == (
        8000,
        Manners(max_queue=64, request_seconds=120, drain_seconds=25),
    )


def test_every_option_of_manners_has_its_row():
    options = {
        name
        for parameter in serve.command.params
        for name in parameter.opts
        if parameter.name in serve.chosen_manners.__annotations__
    }
    told = {row[0].strip("`").split()[0]: row[1] for row in rows("| option |")}
    assert told.keys() - {"UNSHARD_API_KEY"} == options
    defaults = Manners()
    assert int(told["--max-queue"]) == defaults.max_queue
    assert int(told["--client-timeout"]) == defaults.client_seconds
    assert int(told["--drain-seconds"]) == defaults.drain_seconds
    assert MAX_LOGGED_BYTES == 64 << 10
    assert limits.MAX_BODY_BYTES == 8 << 20


def test_every_metric_has_its_row_and_type():
    statistics = EngineStatistics(CacheUse(1, 0, 0, 0), 0, 0, 0, 0, 0, 0)
    text = "".join(Metrics().lines(statistics))
    kinds = [list(pair) for pair in re.findall(r"^# TYPE (\S+) (\S+)$", text, re.MULTILINE)]
    assert [[row[0].strip("`"), row[1]] for row in rows("| metric |")] == kinds
    assert BLOCK_TOKENS == 16


@pytest.mark.parametrize(("code", "error"), [(5, "WorkerLostError"), (6, "EngineLostError")])
def test_exit_codes(code, error):
    assert getattr(errors, error).exit_code == code
    assert str(code) in {row[0] for row in rows("| exit code |")}


def test_the_example_of_the_log_is_an_entry():
    (line,) = re.findall(r"```json\n(.*?)\n```", PAGE, re.DOTALL)
    names = re.findall(
        r'^ +"([a-z_]+)":', (ROOT / "src/unshard/server/access.py").read_text(), re.MULTILINE
    )
    assert list(json.loads(line)) == names
