"""What the README shows is true: its commands run, its Python runs, its links exist."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

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


def test_every_page_is_linked_from_another() -> None:
    pages = {path: path.read_text() for path in (ROOT / "docs").glob("*.md")}
    for page in pages:
        others = [README, *(text for path, text in pages.items() if path != page)]
        assert any(f"{page.name})" in text or f"{page.name}#" in text for text in others), page


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
def test_python_blocks_run(number: int, tmp_path: Path) -> None:
    code = blocks("python")[number].replace("src/unshard/demo_model", str(DEMO_MODEL))
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout
