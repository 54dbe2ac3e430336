"""What the README shows is true: its commands run, its Python runs, its links exist."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from unshard import releases
from unshard.cli.main import COMMANDS, main
from unshard.testing.object_store import FakeObjectStore

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
DEMO_MODEL = ROOT / "src/unshard/demo_model"


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def test_make_targets_exist() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"^\$ make ([a-z-]+)", README, re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def test_links_exist() -> None:
    for link in re.findall(r"\]\(([^)#]+)", README):
        assert (ROOT / link).exists(), link


def test_the_index_links_every_page() -> None:
    """Decisions have an index of their own."""
    docs = ROOT / "docs"
    linked = re.findall(r"\]\(([^)#]+)", (docs / "README.md").read_text())
    pages = {str(path.relative_to(docs)) for path in docs.rglob("*.md")}
    assert {page for page in pages if "decisions/" not in page} - {"README.md"} <= set(linked)
    assert all((docs / link).exists() for link in linked)
    assert len(linked) == len(set(linked))


def test_it_is_three_screens() -> None:
    assert len(README.splitlines()) <= 150


def test_the_manifest_is_where_a_download_finds_it() -> None:
    [url] = re.findall(r"^\$ curl -LO (.*)$", README, re.MULTILINE)
    assert url == f"{releases.ASSETS}{releases.OPT_175B.manifest_name}"


def test_named_commands_exist() -> None:
    for name in re.findall(r"^\$ unshard ([a-z]+)", README, re.MULTILINE):
        assert name in COMMANDS


def test_the_commands_for_opt_175b_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On the bundled model: the same lines with its manifest, up to the server."""
    [session] = [block for block in blocks("console") if "UNSHARD_URL" in block]
    lines = [line.split("#")[0].split()[2:] for line in session.splitlines() if "$ unshard" in line]
    monkeypatch.chdir(tmp_path)
    (tmp_path / "opt175b_md5sum_shards.csv").write_bytes(
        (DEMO_MODEL / "md5sum_shards.csv").read_bytes()
    )
    with FakeObjectStore(DEMO_MODEL) as store:
        monkeypatch.setenv("UNSHARD_URL", store.presigned_url())
        ran = [line[0] for line in lines if line[0] != "serve" and main(line) == 0]
    assert ran == ["plan", "download", "verify", "inspect", "reshard", "diff"]


@pytest.mark.slow
@pytest.mark.parametrize("number", range(len(blocks("python"))))
def test_python_blocks_run(number: int, run_program: Callable[[str], str]) -> None:
    assert run_program(blocks("python")[number])
