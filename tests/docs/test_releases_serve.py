"""A release comes with its tokenizer, and so can be resharded and served as it arrives."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from unshard import releases
from unshard.cli.main import main
from unshard.manifest import Digest, read_manifest
from unshard.testing.object_store import FakeObjectStore

DEMO_MODEL = Path(__file__).parents[2] / "src/unshard/demo_model"
TOKENIZER = ("dict.txt", "gpt2-merges.txt", "gpt2-vocab.json")


@pytest.fixture
def release(monkeypatch):
    """The bundled model passes for a release of OPT; the link to it."""
    names = tuple(read_manifest(DEMO_MODEL / "md5sum_shards.csv"))
    digests = {
        name: Digest("md5", hashlib.md5((DEMO_MODEL / name).read_bytes()).hexdigest())
        for name in TOKENIZER
    }
    vocab_size = len((DEMO_MODEL / "dict.txt").read_text().splitlines()) + 4
    monkeypatch.setitem(
        releases.BY_TEMPLATE_NAME, "stubbed.pt", releases.Release("demo", "stubbed.pt", names)
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
    assert sorted(report["tokenizer"]) == list(TOKENIZER)
    for name in TOKENIZER:
        assert Path("raw", name).read_bytes() == (DEMO_MODEL / name).read_bytes()
    assert main(["verify", "raw"]) == 0
    assert main(["reshard", "raw", "resharded", "--to", "safetensors"]) == 0
    assert "no tokenizer" not in capsys.readouterr().err
    for folder in ("raw", "resharded"):
        assert main(["generate", folder, "KING", "--max-tokens", "4"]) == 0
        assert capsys.readouterr().out
