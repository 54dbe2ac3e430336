"""A release comes with its tokenizer, and so can be resharded and served as it arrives; the
commands of docs/download.md that fetch one run."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path

import pytest

from unshard import releases
from unshard.cli.main import main
from unshard.manifest import Digest, read_manifest
from unshard.testing.object_store import FakeObjectStore

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/download.md").read_text()
COMMANDS = [
    line
    for line in re.findall(r"^\$ unshard (.*)$", PAGE, re.MULTILINE)
    if not any(option in line for option in ("--url-", "--reshard"))  # test_download_page runs them
]
DEMO_MODEL = ROOT / "src/unshard/demo_model"
MANIFEST = "md5sum_shards.csv"
TOKENIZER = ("dict.txt", "gpt2-merges.txt", "gpt2-vocab.json")


@pytest.fixture
def release(monkeypatch):
    """The bundled model passes for a release of OPT; the link to it."""
    names = tuple(read_manifest(DEMO_MODEL / MANIFEST))
    digests = {
        name: Digest("md5", hashlib.md5((DEMO_MODEL / name).read_bytes()).hexdigest())
        for name in TOKENIZER
    }
    vocab_size = len((DEMO_MODEL / "dict.txt").read_text().splitlines()) + 4
    monkeypatch.setitem(
        releases.BY_TEMPLATE_NAME,
        "stubbed.pt",
        releases.Release("demo", "stubbed.pt", names, MANIFEST),
    )
    monkeypatch.setattr(releases, "TOKENIZER_DIGESTS", digests)
    monkeypatch.setattr(releases, "OPT_VOCAB_SIZE", vocab_size)
    with (
        FakeObjectStore(DEMO_MODEL) as store,
        FakeObjectStore(DEMO_MODEL, is_public=True) as assets,
    ):
        monkeypatch.setattr(releases, "ASSETS", assets.presigned_url("", folder="/assets/"))
        yield store.presigned_url()


def test_a_release_generates_as_it_arrives(release, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["download", release, "raw", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["is_verified"]
    assert sorted(report["tokenizer"]) == list(TOKENIZER)
    for name in TOKENIZER:
        assert Path("raw", name).read_bytes() == (DEMO_MODEL / name).read_bytes()
    assert main(["verify", "raw"]) == 0
    assert main(["reshard", "raw", "resharded", "--to", "safetensors"]) == 0
    assert "no tokenizer" not in capsys.readouterr().err
    for folder in ("raw", "resharded"):
        assert main(["generate", folder, "KING", "--max-tokens", "4"]) == 0
        assert capsys.readouterr().out


def test_the_commands_run(release, tmp_path, monkeypatch, capsys):
    public = releases.PublicRelease(f"{releases.ASSETS}checkpoint_last-model_part-0-shard*.pt", 5)
    monkeypatch.setitem(releases.PUBLIC, "opt-125m", public)
    monkeypatch.chdir(tmp_path)
    rows = read_manifest(DEMO_MODEL / MANIFEST).items()
    Path("opt-iml-175b.md5").write_text("".join(f"{md5.value}  {name}\n" for name, md5 in rows))
    for line in COMMANDS:
        line = re.sub(r"https://raw\S*/assets/", releases.ASSETS, line)
        line = line.replace("opt175b_md5sum_shards.csv", MANIFEST)
        if line.startswith("download opt-125m"):
            monkeypatch.delenv("UNSHARD_URL", raising=False)
        else:
            monkeypatch.setenv("UNSHARD_URL", release)
        assert main(line.split()) == 0, line
    assert "10 files match" in capsys.readouterr().out
    for folder in ("opt-125m", "opt-175b", "opt-iml-175b"):
        assert Path(folder, "dict.txt").exists()
    assert len(COMMANDS) == 4


def test_the_page_says_which_releases_are_known():
    assert all(f"`{name}`" in PAGE for name in releases.PUBLIC)
    for release in releases.BY_TEMPLATE_NAME.values():
        row = f"| `{release.template_name}` | {release.name} | {len(release.file_names)} |"
        assert row in PAGE
    assert releases.ASSETS in PAGE
