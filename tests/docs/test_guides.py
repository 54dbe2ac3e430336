"""docs/guides: every command is one, and those that can run here do, on the bundled model."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import click
import pytest

from unshard.cli.main import main, unshard
from unshard.testing.object_store import FakeObjectStore, Fault

ROOT = Path(__file__).parents[2]
GUIDES = ROOT / "docs/guides"
DEMO_MODEL = ROOT / "src/unshard/demo_model"
NAMES = sorted(path.name for path in GUIDES.glob("*.md"))
PLACEHOLDERS = ("…", " DIR", "-reshard")


def page(name: str) -> str:
    return (GUIDES / name).read_text()


def commands(name: str) -> list[str]:
    """Every `unshard` line of its blocks, then of its tables and sentences, without the name."""
    text = page(name)
    lines = re.findall(r"^\$ unshard (.*)$", text, re.MULTILINE)
    inline = re.findall(r"`unshard ([^`]+)`", text)
    whole = [each for each in inline if " " in each]
    return lines + [each for each in whole if not any(part in each for part in PLACEHOLDERS)]


def run(line: str, capsys: pytest.CaptureFixture[str]) -> int:
    """The exit code of one of `commands`, whose output goes where the line says."""
    words, _, output = line.partition(" > ")
    capsys.readouterr()
    code = main(shlex.split(words))
    if output:
        Path(output).write_text(capsys.readouterr().out)
    return code


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with a manifest under the name of the real one."""
    monkeypatch.chdir(tmp_path)
    shutil.copy(DEMO_MODEL / "md5sum_shards.csv", "opt175b_md5sum_shards.csv")
    return tmp_path


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeObjectStore]:
    with FakeObjectStore(DEMO_MODEL) as store:
        monkeypatch.setenv("UNSHARD_URL", store.presigned_url())
        yield store


@pytest.mark.parametrize("name", NAMES)
def test_every_command_is_one(name: str) -> None:
    for line in commands(name):
        command, *arguments = shlex.split(line.partition(" > ")[0])
        found = unshard.get_command(click.Context(unshard), command)
        assert found is not None
        found.make_context(command, arguments)


@pytest.mark.parametrize("name", NAMES)
def test_a_guide_is_short_and_its_links_exist(name: str) -> None:
    text = page(name)
    assert len(text.splitlines()) <= 70
    for link, section in re.findall(r"\]\(([^)#:]+)#?([^)]*)\)", text):
        target = GUIDES / link
        assert target.exists(), link
        headings = re.findall(r"^#+ (.*)$", target.read_text(), re.MULTILINE)
        anchors = {re.sub(r"[^\w -]", "", h.lower()).replace(" ", "-") for h in headings}
        assert section in {"", *anchors}, section


def test_an_expired_link(
    folder: Path, store: FakeObjectStore, capsys: pytest.CaptureFixture[str]
) -> None:
    """The first run meets the end of the link; each other one goes on."""
    download, plan, by_command, by_file = commands("expired-link.md")
    store.inject(Fault(status=403, code="RequestExpired"))
    assert run(download, capsys) == 4
    assert "fresh link" in capsys.readouterr().err
    assert run(download, capsys) == 0
    assert run(plan, capsys) == 0
    assert re.search(r"^link ", capsys.readouterr().out, re.MULTILINE)
    Path("link.txt").write_text(store.presigned_url())
    Path("sign-link").write_text("#!/bin/sh\ncat link.txt\n")
    Path("sign-link").chmod(0o755)
    for line in (by_command, by_file):
        next(Path("opt-175b").glob("*-shard3.pt")).unlink()
        assert run(line, capsys) == 0


def test_what_it_says_of_a_link_is_said(folder: Path, store: FakeObjectStore) -> None:
    said = (ROOT / "docs/reference/errors.md").read_text()
    table = page("expired-link.md").split("| it says |")[1]
    for words in ("the URL has lost part of its query", "the URL was copied from HTML source"):
        assert words in said
        assert words in table


def test_verify_and_repair(
    folder: Path, store: FakeObjectStore, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(DEMO_MODEL, "opt-175b")
    next(Path("opt-175b").glob("*-shard3.pt")).unlink()
    codes = [run(line, capsys) for line in commands("verify-and-repair.md")]
    assert codes == [3] + [0] * (len(codes) - 1)
    assert json.loads(capsys.readouterr().out)


@pytest.mark.slow
def test_reshard_to_n(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(DEMO_MODEL, "opt-175b")
    lines = commands("reshard-to-n.md")
    # The table's commands write what the proof below it reads, and the last takes the source.
    order = sorted(lines, key=lambda line: ("--reclaim" in line, line.startswith("diff ")))
    order = [line for line in order if "--dry-run" not in line and "fingerprint" not in line]
    assert run(next(line for line in lines if "--dry-run" in line), capsys) == 0
    assert not Path("parts").exists()
    assert [run(line, capsys) for line in order] == [0] * len(order)
    assert run("fingerprint two", capsys) == 0
    assert "fingerprint two" in lines
    assert not list(Path("opt-175b").glob("*.pt"))
    assert len(list(Path("raw-2x4").glob("*.pt"))) == 8


@pytest.mark.slow
def test_on_a_cpu(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(DEMO_MODEL, "opt-125m")
    Path("documents.txt").write_text("KING HENRY.\n")
    Path("prompts.jsonl").write_text('{"prompt": "KING", "max_tokens": 2}\n')
    lines = commands("serve-on-cpu.md") + commands("evaluate-with-lm-eval.md")
    ran = [line for line in lines if not line.startswith(("serve", "download"))]
    assert len(ran) >= 6
    for line in ran:
        assert run(line, capsys) == 0, line
        Path("scores.jsonl").unlink(missing_ok=True)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["serve-on-cpu.md", "move-over-from-metaseq.md"])
def test_it_serves(name: str, tmp_path: Path, serving: Callable, ask: Callable) -> None:
    served = [line for line in commands(name) if line.startswith("serve")]
    for source in {line.split()[1] for line in served}:
        (tmp_path / source).symlink_to(DEMO_MODEL)
    for line in served:
        with serving(["unshard", *shlex.split(line), "--port", "0"], tmp_path) as url:
            for curl in re.findall(r"^\$ (curl .*)$", page(name), re.MULTILINE):
                assert ask(shlex.split(curl), url)["choices"][0]["text"]


def test_figures_of_175b_are_the_plans() -> None:
    """docs/plan.md's own test holds them to the program."""
    figures = set(re.findall(r"\d+\.\d GB", page("serve-175b-on-8x80gb.md")))
    assert figures
    assert figures <= set(re.findall(r"\d+\.\d GB", (ROOT / "docs/plan.md").read_text()))
