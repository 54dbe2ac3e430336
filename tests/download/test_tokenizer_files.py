"""The tokenizer's files beside a release: fetched, checked, generated, and enough to serve it."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from unshard import releases
from unshard.download import RetryPolicy, fetch_tokenizer
from unshard.errors import DestinationError, DigestError, LinkRefusedError, TransferError
from unshard.manifest import Digest
from unshard.testing.object_store import FakeObjectStore, Fault

CONTENTS = {"gpt2-merges.txt": b"#version: 0.2\nt h\n", "gpt2-vocab.json": b'{"<s>": 0}'}
VOCAB_SIZE = 7


@pytest.fixture
def assets(tmp_path, monkeypatch):
    """A public folder with files of a small vocabulary, which passes for OPT's."""
    (tmp_path / "assets").mkdir()
    files = {**CONTENTS, "dict.txt": releases.dict_txt(VOCAB_SIZE)}
    digests = {n: Digest("md5", hashlib.md5(c).hexdigest()) for n, c in files.items()}
    monkeypatch.setattr(releases, "TOKENIZER_DIGESTS", digests)
    monkeypatch.setattr(releases, "OPT_VOCAB_SIZE", VOCAB_SIZE)
    with FakeObjectStore(tmp_path / "assets", is_public=True) as store:
        for name, content in CONTENTS.items():
            store.put(name, content)
        yield store


def fetch(store, target: Path):
    return fetch_tokenizer(
        target,
        assets=store.presigned_url("", folder="/assets/"),
        retry=RetryPolicy(attempts=2, first_delay_s=0),
    )


def visible(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in folder.iterdir() if not p.name.startswith(".")}


def test_two_are_fetched_and_one_is_made(assets, tmp_path):
    names = fetch(assets, tmp_path / "target")
    assert visible(tmp_path / "target") == {**CONTENTS, "dict.txt": b"4 1\n5 1\n6 1\n"}
    assert sorted(names) == ["dict.txt", *CONTENTS]


def test_what_is_there_and_right_is_not_asked_for(assets, tmp_path):
    target = tmp_path / "target"
    target.mkdir()
    (target / "gpt2-vocab.json").write_bytes(CONTENTS["gpt2-vocab.json"])
    fetch(assets, target)
    before = (target / "dict.txt").stat()
    fetch(assets, target)
    assert [request.name for request in assets.requests] == ["gpt2-merges.txt"]
    assert (target / "dict.txt").stat().st_ino == before.st_ino


def test_wrong_files_are_replaced(assets, tmp_path):
    target = tmp_path / "target"
    target.mkdir()
    for name in (*CONTENTS, "dict.txt"):
        (target / name).write_bytes(b"of another model")
    fetch(assets, target)
    assert visible(target) == {**CONTENTS, "dict.txt": b"4 1\n5 1\n6 1\n"}


def test_a_link_of_that_name_is_not_written_through(assets, tmp_path):
    target, other = tmp_path / "target", tmp_path / "other"
    target.mkdir()
    other.write_bytes(b"precious")
    (target / "dict.txt").symlink_to(other)
    fetch(assets, target)
    assert other.read_bytes() == b"precious"
    assert not (target / "dict.txt").is_symlink()


def test_a_folder_of_that_name_is_said(assets, tmp_path):
    (tmp_path / "target" / "dict.txt").mkdir(parents=True)
    with pytest.raises(DestinationError, match=r"dict\.txt: Is a directory"):
        fetch(assets, tmp_path / "target")


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        (Fault(status=404), TransferError),
        (Fault(status=403), LinkRefusedError),
        (Fault(html=True), TransferError),
        (Fault(wrong_bytes=True), DigestError),
    ],
)
def test_what_is_wrong_there_is_told_and_nothing_wrong_is_kept(assets, tmp_path, fault, error):
    assets.inject(fault, times=None)
    with pytest.raises(error):
        fetch(assets, tmp_path / "target")
    assert list(visible(tmp_path / "target")) == ["dict.txt"]


def test_the_digest_of_dict_txt_is_of_what_is_made():
    made = releases.dict_txt(releases.OPT_VOCAB_SIZE)
    assert releases.TOKENIZER_DIGESTS["dict.txt"].value == hashlib.md5(made).hexdigest()


@pytest.mark.parametrize("release", releases.BY_TEMPLATE_NAME.values())
def test_a_whole_release_is_known_by_its_names(release):
    names = release.file_names
    assert releases.has_opt_tokenizer("https://cdn.example/stubbed.pt", reversed(names))
    assert not releases.has_opt_tokenizer("https://cdn.example/stubbed.pt", names[1:])


@pytest.mark.parametrize("release", releases.PUBLIC.values())
def test_a_public_release_is_known_by_its_address_only(release):
    assert releases.has_opt_tokenizer(release.url, [])
    elsewhere = release.url.replace("dl.fbaipublicfiles.com", "elsewhere.example")
    assert not releases.has_opt_tokenizer(elsewhere, ["reshard-model_part-0.pt"])
