"""docs/score.md: its commands run, and an interrupted one ends as if it was not."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path

import pytest

from unshard.cli.main import main
from unshard.engine.prompts import _FIELDS

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/score.md").read_text()
DEMO_MODEL = ROOT / "src/unshard/demo_model"
TEXT = "KING HENRY.\nNow, lords, be patient.\n\nROMEO.\nMy lord?\n"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the page's commands run: the bundled model, and small files of its names."""
    monkeypatch.chdir(tmp_path)
    Path("opt-125m").symlink_to(DEMO_MODEL)
    Path("documents.txt").write_text(TEXT)
    Path("book.txt").write_text(TEXT * 40)
    documents = [{"id": f"d{n}", "text": text} for n, text in enumerate(TEXT.splitlines())]
    Path("documents.jsonl").write_text("".join(json.dumps(each) + "\n" for each in documents))
    [prompts] = re.findall(r"```json\n(.*?)```", PAGE, re.DOTALL)
    Path("prompts.jsonl").write_text(prompts)
    return tmp_path


def answers(text: str) -> list[dict]:
    return [json.loads(line) for line in text.splitlines()]


def test_its_commands_run_and_give_its_fields(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsysbinary: pytest.CaptureFixture[bytes]
) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(TEXT.encode())))
    commands = re.findall(r"^\$ unshard (.*)$", PAGE, re.MULTILINE)
    assert len(commands) == 5
    outputs = []
    for line in commands:
        assert main(line.partition(" < ")[0].split()) == 0
        outputs.append(answers(capsysbinary.readouterr().out.decode()))
    by_line, _, book, from_stdin, _ = outputs
    assert from_stdin == by_line
    assert [each.get("id") for each in by_line] == [1, 2, 3, 4, 5, None]
    by_id = answers(Path("scores.jsonl").read_text())
    assert [each.get("id") for each in by_id] == ["d0", "d1", "d2", "d3", "d4", None]
    assert by_id[-1] == by_line[-1]
    assert book[0]["tokens"] > 511
    assert (book[-1]["total"]["stride"], book[-1]["total"]["window"]) == (256, 511)
    texts = answers(Path("texts.jsonl").read_text())
    assert [each["id"] for each in texts] == ["a", "b"]
    assert texts[1]["seed"] == 7
    _check_fields(by_line, texts)


def _check_fields(scores: list[dict], texts: list[dict]) -> None:
    """Every field of the output is on the page, and every field of a prompt's line."""
    told = set(re.findall(r"`([a-z_]+)`", PAGE))
    found = {*scores[0], *scores[-1], *scores[-1]["total"], *texts[0], *_FIELDS}
    assert found <= told


@pytest.mark.parametrize(
    "command",
    [
        "score opt-125m documents.jsonl --output out",
        "generate opt-125m --input prompts.jsonl --output out --max-tokens 9",
    ],
)
def test_a_killed_run_goes_on(folder: Path, command: str) -> None:
    out = Path("out")
    assert main(command.split()) == 0
    whole = out.read_bytes()
    out.write_bytes(whole[: whole.index(b"\n") + 20])
    assert main(command.split()) == 0
    again, before = answers(out.read_text()), answers(whole.decode())
    assert [each.get("id") for each in again] == [each.get("id") for each in before]
    for one, other in zip(again, before, strict=True):
        assert one.get("text") == other.get("text")
        assert one.get("log_likelihood") == pytest.approx(other.get("log_likelihood"), abs=1e-4)
    assert main(command.split()) == 0  # all is done
    assert answers(out.read_text())[:-1] == again[:-1]


def test_lines_that_fail_are_said_in_the_end(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("documents.jsonl").write_text(
        '{"id": 1, "text": "a"}\n{"id": 2}\n{"id": 3, "text": "b"}\n'
    )
    for _ in range(2):  # the second finds all answered
        assert main(["score", "opt-125m", "documents.jsonl", "--output", "out", "--events"]) == 1
        last = json.loads(capsys.readouterr().err.splitlines()[-1])
        assert last["message"] == "1 of 3 lines failed"
        one, two, three, total = answers(Path("out").read_text())
        assert "documents.jsonl, line 2: the field text is missing" in two["error"]["message"]
        assert total["total"]["tokens"] == one["tokens"] + three["tokens"]
        assert total["total"]["failed"] == 1


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ("score opt-125m documents.txt --stride 512", "--stride 512 is more than the 511 tokens"),
        ("score opt-125m documents.txt --jsonl --whole-file", "exclude each other"),
        ("score opt-125m nothing.txt", "nothing.txt: no such file"),
        ("score opt-125m documents.txt --output other", "its line 2 is that of 5"),
        ("score opt-125m documents.txt --output prompts.jsonl", "holds other answers"),
        ("generate opt-125m --input prompts.jsonl --output ./prompts.jsonl", "is the input"),
        ("generate opt-125m", "either PROMPT or --input"),
        ("generate opt-125m a --input prompts.jsonl", "either PROMPT or --input"),
        ("generate opt-125m a --output out", "--output goes with --input"),
        ("generate opt-125m --input prompts.jsonl -n 2", "-n does not go with --input"),
    ],
)
def test_what_makes_no_sense_is_refused(
    folder: Path, capsys: pytest.CaptureFixture[str], arguments: str, told: str
) -> None:
    fields = '"tokens": 0, "bytes": 0, "chars": 0, "log_likelihood": 0'
    Path("other").write_text(f'{{"id": 1, {fields}}}\n{{"id": 5, {fields}}}\n')
    before = {path: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    assert main(arguments.split()) == 2
    assert told in capsys.readouterr().err
    assert before == {path: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def test_links_exist() -> None:
    for link in re.findall(r"\]\(([^)#]+)\)", PAGE):
        assert (ROOT / "docs" / link).exists(), link
