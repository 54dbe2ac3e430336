"""--manifest with a URL, and the manifests that are known without one."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from unshard import releases
from unshard.cli.main import main
from unshard.testing.object_store import FakeObjectStore

CONTENTS = {f"last-{i}.pt": b"PK%d" % i * 1000 for i in range(3)}
MD5S = {name: hashlib.md5(content).hexdigest() for name, content in CONTENTS.items()}
LIST = "md5sum_shards.csv"


def csv(md5s: dict[str, str]) -> bytes:
    return "\n".join(["shard,md5sum", *map(",".join, md5s.items())]).encode()


@pytest.fixture
def store(tmp_path, monkeypatch):
    """The files, and beside them their manifest."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("UNSHARD_URL", raising=False)
    Path("objects").mkdir()
    with FakeObjectStore("objects") as store:
        for name, content in {**CONTENTS, LIST: csv(MD5S)}.items():
            store.put(name, content)
        yield store


@pytest.fixture
def assets(tmp_path, monkeypatch, store):
    """A release is known, whose manifest is published where this store serves."""
    release = releases.Release("OPT-0", "stubbed.pt", tuple(CONTENTS), "opt0_md5sum.csv")
    monkeypatch.setitem(releases.BY_TEMPLATE_NAME, "stubbed.pt", release)
    Path("assets").mkdir()
    with FakeObjectStore("assets", is_public=True) as assets:
        monkeypatch.setattr(releases, "ASSETS", assets.presigned_url("", folder="/assets/"))
        yield assets


def run(capfd, *arguments):
    code = main([*map(str, arguments)])
    output = "".join(capfd.readouterr())
    assert "Signature" not in output
    return code, output


def test_download_and_verify_take_one_by_url(store, capfd):
    url = store.presigned_url(LIST)
    code, output = run(capfd, "download", store.presigned_url(), "to", "--manifest", url)
    assert (code, "all verified" in output) == (0, True), output
    code, output = run(capfd, "verify", "to", "--manifest", url)
    assert (code, f"3 files match {store.origin}/weights/{LIST}?…" in output) == (0, True)


@pytest.mark.parametrize("command", ["download", "verify"])
@pytest.mark.parametrize(
    ("address", "code", "words"),
    [
        ("ftp://x.example/a.csv?Signature=s", 2, "--manifest: the URL does not begin with https"),
        (
            "ORIGIN/weights/stubbed.pt?&Expires=1&Signature=s",
            4,
            "--manifest a fresh link",
        ),
        ("ORIGIN/weights/last-0.pt?QUERY", 3, "neither `name,md5`"),
        ("ORIGIN/weights/none.csv?QUERY", 1, "no such file"),
    ],
)
def test_one_that_is_given_and_cannot_be_had_is_an_error(
    store, capfd, command, address, code, words
):
    query = store.presigned_url().partition("?")[2]
    address = address.replace("ORIGIN", store.origin).replace("QUERY", query)
    Path("to").mkdir()
    source = [store.presigned_url(), "to"] if command == "download" else ["to"]
    got, output = run(capfd, command, *source, "--manifest", address)
    assert (got, words in output) == (code, True), output
    assert list(Path("to").iterdir()) == []


@pytest.mark.parametrize("command", [["download", "URL", "to"], ["verify", "to"]])
def test_an_empty_one_as_of_an_unset_variable_is_not_none(store, capfd, command):
    Path("to").mkdir()
    command = [store.presigned_url() if each == "URL" else each for each in command]
    code, output = run(capfd, *command, "--manifest", "")
    assert (code, "cannot read the manifest" in output) == (2, True)


def test_an_export_of_one_does_not_show_its_secret(store, capfd):
    Path("to").mkdir()
    url = store.presigned_url(LIST)
    assert run(capfd, "verify", "to", "--manifest", url, "--export", "md5sum")[0] == 0
    code, output = run(capfd, "verify", "to", "--manifest", url, "--export", "sha256sum")
    assert (code, "has no sha256 of last-0.pt" in output) == (2, True)


def test_a_known_release_is_verified_by_its_published_manifest(store, assets, capfd):
    assets.put("opt0_md5sum.csv", csv(MD5S))
    code, output = run(capfd, "download", store.presigned_url(), "to")
    assert (code, "; all verified" in output) == (0, True), output
    assert f"no --manifest: verifying by {assets.origin}/assets/opt0_md5sum.csv" in output


@pytest.mark.parametrize("published", [None, b"<html>", csv({"last-0.pt": MD5S["last-0.pt"]})])
def test_a_published_manifest_that_is_no_help_costs_the_digests_only(
    store, assets, capfd, published
):
    if published:
        assets.put("opt0_md5sum.csv", published)
    code, output = run(capfd, "download", store.presigned_url(), "to")
    assert (code, "no digests to verify" in output) == (0, True), output
    assert "with nothing to verify them against" in output
    assert {path.name for path in Path("to").glob("*.pt")} == set(CONTENTS)


def test_a_published_manifest_is_not_asked_for_where_one_is_given(store, assets, capfd):
    Path(LIST).write_bytes(csv(MD5S))
    assert run(capfd, "download", store.presigned_url(), "to", "--manifest", LIST)[0] == 0
    assert "opt0_md5sum.csv" not in {request.name for request in assets.requests}


def test_digests_that_cannot_all_be_right_are_told_before_the_download(store, capfd):
    Path(LIST).write_bytes(csv(MD5S | {"last-2.pt": MD5S["last-1.pt"]}))
    code, output = run(capfd, "download", store.presigned_url(), "to", "--manifest", LIST)
    assert code == 3
    first = output.splitlines()[0]
    assert first.startswith(f"{LIST}: gives last-1.pt, last-2.pt one and the same digest")
