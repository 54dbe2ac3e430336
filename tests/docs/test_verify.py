"""docs/verify.md: its commands run, its manifest is one."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from unshard.cli.main import main
from unshard.manifest import MANIFEST_PATTERNS, Digest, parse_manifest
from unshard.testing.object_store import FakeObjectStore

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/verify.md").read_text()
DEMO_MODEL = ROOT / "src/unshard/demo_model"


def test_its_commands_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """On the bundled model, one of whose files is missing until it is repaired."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(DEMO_MODEL, "opt-175b")
    Path("opt-175b/md5sum_shards.csv").rename("opt175b_md5sum_shards.csv")
    next(Path("opt-175b").glob("*-shard3.pt")).unlink()
    codes = []
    with FakeObjectStore(DEMO_MODEL) as store:
        monkeypatch.setenv("UNSHARD_URL", store.presigned_url())
        for line in re.findall(r"^\$ unshard (.*)$", PAGE, re.MULTILINE):
            arguments, _, output = line.partition(" > ")
            capsys.readouterr()
            codes.append(main(arguments.split()))
            if output:
                Path(output).write_text(capsys.readouterr().out)
    assert codes == [3, 3, 0, 0, 0, 0, 0]
    assert "10 torch files are as they were written" in capsys.readouterr().out


def test_its_manifest_is_read() -> None:
    [text] = re.findall(r"```json\n(.*?)```", PAGE, re.DOTALL)
    manifest = parse_manifest(text, "docs/verify.md")
    name = "reshard-model_part-0.pt"
    assert manifest == {name: Digest("md5", "14284cd62d00166bf4a16b7ac43b4946")}
    assert manifest.sizes == {name: 87826944}


def test_it_names_what_is_found_by_itself() -> None:
    assert all(f"`{pattern}`" in PAGE for pattern in MANIFEST_PATTERNS)


def test_links_exist() -> None:
    for link in re.findall(r"\]\(([^)#]+)\)", PAGE):
        assert (ROOT / "docs" / link).exists(), link
