"""docs/api.md: its tables have every field and every route, its commands run."""

from __future__ import annotations

import contextlib
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import Mock

import httpx
import pytest
from fastapi.openapi.utils import get_openapi

from unshard.cli.main import COMMANDS
from unshard.server.app import create_app
from unshard.server.chat_protocol import ChatRequest
from unshard.server.fields import GenerationFields
from unshard.server.generation import Generations
from unshard.server.metaseq_protocol import MetaseqRequest
from unshard.server.protocol import CompletionRequest
from unshard.server.served import ServedModel
from unshard.server.tokenization import TokenizeRequest

ROOT = Path(__file__).parents[2]
DEMO_MODEL = ROOT / "src/unshard/demo_model"
PAGE = (ROOT / "docs/api.md").read_text()
SAMPLING = GenerationFields.model_fields.keys() - {"model", "stream", "stream_options", "n"}


def section(title: str) -> str:
    [text] = re.findall(rf"^## {title}\n(.*?)(?=^## |\Z)", PAGE, re.DOTALL | re.MULTILINE)
    return text


def first_cells(text: str) -> list[str]:
    """The names in the first cells of the rows of all tables of `text`."""
    rows = [line.split("|")[1] for line in text.splitlines() if line.startswith("| `")]
    return [name for row in rows for name in re.findall(r"`([^`]+)`", row)]


def commands(name: str) -> list[list[str]]:
    """The words of each command of the page that begins with `name`."""
    blocks = re.findall(r"```console\n(.*?)```", PAGE, re.DOTALL)
    lines = [line for block in blocks for line in re.split(r"^\$ ", block, flags=re.MULTILINE)]
    split = [shlex.split(line.replace("\\\n", "")) for line in lines]
    return [words for words in split if words and words[0] == name]


@contextlib.contextmanager
def serving(command: list[str], folder: Path) -> Iterator[str]:
    """The address of the server that `command` starts, with the bundled model under the name of
    the real one."""
    link = folder / "opt-175b"
    link.symlink_to(DEMO_MODEL)
    words = [{"6010": "0"}.get(word, word) for word in command[1:]]
    with subprocess.Popen(
        [sys.executable, "-m", "unshard", *words, "--model-name", "opt-175b"],
        stderr=subprocess.PIPE,
        text=True,
        cwd=folder,
    ) as process:
        try:
            line = next(line for line in process.stderr if line.startswith("serving "))
            yield line.split()[3]
        finally:
            process.send_signal(signal.SIGTERM)
            process.communicate(timeout=20)


def ask(curl: list[str], url: str) -> dict:
    """What `curl` would, which need not be installed."""
    _, address, header, kind, data, body = curl
    assert (header, data) == ("-H", "-d")
    name, _, value = kind.partition(": ")
    path = httpx.URL(address).path
    answer = httpx.post(f"{url}{path}", content=body, headers={name: value}, timeout=60)
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_every_field_of_completions_has_its_row():
    assert sorted(first_cells(section("/v1/completions"))) == sorted(CompletionRequest.model_fields)


def test_every_field_of_chat_has_its_row():
    named = set(first_cells(section("/v1/chat/completions")))
    assert named | SAMPLING == ChatRequest.model_fields.keys()


def test_every_field_of_tokenize_has_its_row():
    assert set(first_cells(section("/tokenize and /detokenize"))) == set(
        TokenizeRequest.model_fields
    )


def test_every_field_of_the_original_is_named_with_its_default():
    text = section("The original's API")
    for name, field in MetaseqRequest.model_fields.items():
        assert f"`{name}`" in text, name
        if isinstance(field.default, float) or name == "alpha_src_penalty_end_idx":
            told = re.search(rf"`{name}`[^(]*\((-?[\d.]+)", text)
            assert told is not None, name
            assert float(told[1]) == field.default, name


def test_every_route_has_its_row():
    engine = Mock(max_positions=1)
    app = create_app(ServedModel("none", engine, Mock(), 0), Generations(engine))
    paths = get_openapi(title="", version="", routes=app.routes)["paths"]
    served = {(method.upper(), path) for path, methods in paths.items() for method in methods}
    told = set(re.findall(r"`(GET|POST) (/[^`]*)`", PAGE))
    assert told <= served
    # What is no answer of the model's, or about it, stands on other pages.
    ours = re.compile(r"/(v1|v2|engines|completions|generate|tokenize|detokenize|health|ready)\b")
    assert {each for each in served if ours.match(each[1])} <= told


def test_commands_are_known():
    assert {words[1] for words in commands("unshard")} <= COMMANDS.keys()


@pytest.mark.slow
def test_its_commands_run(tmp_path: Path) -> None:
    [template] = re.findall(r"```jinja\n(.*?)```", PAGE, re.DOTALL)
    (tmp_path / "chat.jinja").write_text(template)
    [serve] = commands("unshard")
    with serving(serve, tmp_path) as url:
        answers = [ask(words, url) for words in commands("curl")]
    completion, chat, tokens, text, original = answers
    assert len(completion["choices"][0]["logprobs"]["top_logprobs"][0]) in (2, 3)
    assert chat["choices"][0]["message"]["role"] == "assistant"
    assert tokens["count"] == len(tokens["token_strs"])
    assert text["prompt"]
    assert original["choices"][0]["logprobs"]["tokens"][0] == "</s>"
