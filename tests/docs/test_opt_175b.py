"""docs/opt-175b.md: its commands run, its links exist, its exit codes are the errors'."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import pytest

from unshard import errors
from unshard.cli.main import INTERRUPTED, main
from unshard.testing.object_store import FakeObjectStore

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/opt-175b.md").read_text()
README = (ROOT / "README.md").read_text()
COMMANDS = re.findall(r"^\$ (.*)$", PAGE, re.MULTILINE)
DEMO_MODEL = ROOT / "src/unshard/demo_model"


def test_its_commands_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On the bundled model, but for the server."""
    monkeypatch.chdir(tmp_path)
    manifest = (DEMO_MODEL / "md5sum_shards.csv").read_bytes()
    (tmp_path / "opt175b_md5sum_shards.csv").write_bytes(manifest)
    lines = [line.split()[1:] for line in COMMANDS if line.startswith("unshard ")]
    with FakeObjectStore(DEMO_MODEL) as store:
        monkeypatch.setenv("UNSHARD_URL", store.presigned_url())
        ran = [line[0] for line in lines if line[0] != "serve" and main(line) == 0]
    assert ran == [line[0] for line in lines if line[0] != "serve"]


def test_it_begins_as_the_readme_does() -> None:
    shown = [line for line in re.findall(r"^\$ (.*)$", README, re.MULTILINE) if line in COMMANDS]
    assert shown == [line for line in COMMANDS if line in shown]
    assert len(shown) == 9


def test_every_exit_code_has_its_row() -> None:
    told = {int(code) for code in re.findall(r"^\| (\d+) \|", PAGE, re.MULTILINE)}
    classes = [each for _, each in inspect.getmembers(errors, inspect.isclass)]
    raised = {each.exit_code for each in classes if issubclass(each, errors.UnshardError)}
    assert told == {0, *raised, INTERRUPTED}


def test_links_exist() -> None:
    for link, section in re.findall(r"\]\(([^)#]+)(#[^)]+)?\)", PAGE):
        page = (ROOT / "docs" / link).read_text()
        headings = re.findall(r"^#+ (.*)$", page, re.MULTILINE)
        assert section[1:] in {"", *(each.lower().replace(" ", "-") for each in headings)}
