"""`unshard verify`: what it writes for others, remembers, and fetches again."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from unshard.cli.main import main
from unshard.manifest import parse_manifest
from unshard.progress import shown_bytes
from unshard.testing.object_store import FakeObjectStore

CONTENTS = {f"reshard-model_part-{i}.pt": b"PK\x03\x04%d" % i * 1000 for i in range(3)}
NAMES = list(CONTENTS)


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """The files and a list of their md5s, beside the folder."""
    monkeypatch.delenv("UNSHARD_URL", raising=False)
    (tmp_path / "folder").mkdir()
    for name, content in CONTENTS.items():
        (tmp_path / "folder" / name).write_bytes(content)
    rows = [f"{name},{hashlib.md5(content).hexdigest()}" for name, content in CONTENTS.items()]
    (tmp_path / "md5sum.csv").write_text("\n".join(["shard,md5sum", *rows]))
    return tmp_path / "folder"


@pytest.fixture
def store(tmp_path):
    (tmp_path / "objects").mkdir()
    with FakeObjectStore(tmp_path / "objects") as store:
        for name, content in CONTENTS.items():
            store.put(name, content)
        yield store


def verify(folder: Path, *arguments: object) -> int:
    manifest = folder.parent / "md5sum.csv"
    return main(["verify", str(folder), "--manifest", str(manifest), *map(str, arguments)])


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("*.pt*")}


@pytest.mark.parametrize("form", ["json", "md5sum", "sha256sum"])
def test_a_manifest_of_the_files_confirms_them(folder, form, capsys):
    (folder / "old.md5").touch()
    (folder / "b.pt.partial").touch()
    assert main(["verify", str(folder), "--export", form]) == 0
    text = capsys.readouterr().out
    manifest = parse_manifest(text, form)
    algorithm = "md5" if form == "md5sum" else "sha256"
    assert {name: digest.value for name, digest in manifest.items()} == {
        name: hashlib.new(algorithm, content).hexdigest() for name, content in CONTENTS.items()
    }
    assert manifest.sizes == ({n: len(c) for n, c in CONTENTS.items()} if form == "json" else {})
    if form != "json" and (tool := shutil.which(form)):
        subprocess.run([tool, "-c", "--strict"], input=text.encode(), cwd=folder, check=True)
    (folder / "old.md5").unlink()
    (folder / "manifest.json" if form == "json" else folder / f"a.{algorithm}").write_text(text)
    assert main(["verify", str(folder)]) == 0
    assert "3 files match" in capsys.readouterr().out


def test_a_manifest_is_put_into_another_form_without_its_files(folder, capsys):
    for path in folder.iterdir():
        path.unlink()
    assert verify(folder, "--export", "md5sum") == 0
    lines = capsys.readouterr().out
    assert lines == "".join(f"{hashlib.md5(c).hexdigest()}  {n}\n" for n, c in CONTENTS.items())
    assert verify(folder, "--export", "json") == 0
    assert parse_manifest(capsys.readouterr().out, "m") == parse_manifest(lines, "m")
    assert verify(folder, "--export", "sha256sum") == 2
    assert "has no sha256 of reshard-model_part-0.pt" in capsys.readouterr().err
    assert main(["verify", str(folder), "--export", "json"]) == 2
    assert "has no files" in capsys.readouterr().err


def test_the_report_says_what_was_remembered(folder, capsys):
    for path in folder.iterdir():
        os.utime(path, (10**9, 10**9))
    assert verify(folder) == 0
    assert f"({shown_bytes(sum(map(len, CONTENTS.values())))} read)" in capsys.readouterr().out
    assert verify(folder) == 0
    assert "(known from before; --force reads again)" in capsys.readouterr().out
    assert verify(folder, "--json") == 0
    assert json.loads(capsys.readouterr().out)["remembered"] == NAMES
    assert verify(folder, "--json", "--force") == 0
    assert json.loads(capsys.readouterr().out)["remembered"] == []


@pytest.mark.parametrize("way", ["argument", "stdin", "environment"])
def test_what_differs_or_is_missing_is_fetched_again(folder, store, way, monkeypatch, capsys):
    (folder / NAMES[0]).write_bytes(b"wrong")
    (folder / NAMES[2]).unlink()
    url = store.presigned_url()
    if way == "stdin":
        monkeypatch.setattr(sys, "stdin", io.StringIO(url + "\n"))
    if way == "environment":
        monkeypatch.setenv("UNSHARD_URL", url)
    given = {"argument": [url], "stdin": ["-"], "environment": []}[way]
    assert verify(folder, "--repair", *given) == 0
    out, err = capsys.readouterr()
    assert out.splitlines()[:2] == [f"repaired   {NAMES[0]}", f"repaired   {NAMES[2]}"]
    assert "3 files match" in out
    assert contents(folder) == CONTENTS
    assert {request.name for request in store.requests} == {NAMES[0], NAMES[2]}
    assert "Signature" not in out + err


def test_a_bit_that_the_disk_lost_is_repaired(folder, store, capsys):
    assert (
        main(["download", store.presigned_url(), str(folder), "--manifest", manifest(folder)]) == 0
    )
    path = folder / NAMES[1]
    status = path.stat()
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert verify(folder, "--force", "--repair", store.presigned_url(), "--json") == 0
    assert json.loads(capsys.readouterr().out.partition("\n")[2])["repaired"] == [NAMES[1]]
    assert contents(folder) == CONTENTS


def manifest(folder: Path) -> str:
    return str(folder.parent / "md5sum.csv")


def test_a_bad_file_stays_until_right_bytes_are_there(folder, store, capsys):
    (folder / NAMES[0]).write_bytes(b"wrong")
    store.put(NAMES[0], b"PK\x03\x04 wrong as well")
    assert verify(folder, "--repair", store.presigned_url()) == 3
    assert "is this the manifest of these weights?" in capsys.readouterr().err
    assert contents(folder) == {**CONTENTS, NAMES[0]: b"wrong"}


def test_nothing_is_asked_for_where_all_is_right(folder, store):
    assert verify(folder, "--repair", store.presigned_url()) == 0
    assert store.requests == []


def test_repair_says_what_it_lacks(folder, capsys):
    assert verify(folder, "--repair") == 2
    assert "no URL to repair from" in capsys.readouterr().err
    (folder / "dict.txt").write_bytes(b"4 1\n")
    for name in NAMES:
        (folder / name).unlink()
    assert main(["verify", str(folder), "--repair", "opt-125m"]) == 2
    assert "--repair needs a manifest" in capsys.readouterr().err


def test_only_files_are_taken_for_manifests(folder, capsys):
    os.mkfifo(folder / "pipe.md5")
    (folder / "checklist.chk").mkdir()
    (folder / "gone.sha256").symlink_to("nowhere")
    assert main(["verify", str(folder)]) == 3
    assert "torch files are damaged" in capsys.readouterr().err


def test_names_in_a_folder_do_no_harm_to_a_terminal(folder, capsys):
    for name in ("a\nmissing    b.pt", "\x1b[31mred.pt"):
        (folder / name).touch()
    assert verify(folder) == 0
    assert capsys.readouterr().out.splitlines()[:2] == [
        r"extra      \x1b[31mred.pt",
        r"extra      a\nmissing    b.pt",
    ]
    assert main(["verify", str(folder)]) == 3
    out, err = capsys.readouterr()
    assert len(out.splitlines()) == 7
    assert "\x1b" not in out + err


def test_an_exported_manifest_says_what_it_leaves_out(folder, capsys):
    for name in ("a\nb.pt", "c.pt.partial", ".hidden"):
        (folder / name).touch()
    assert main(["verify", str(folder), "--export", "md5sum"]) == 0
    out, err = capsys.readouterr()
    assert [line[34:] for line in out.splitlines()] == NAMES
    assert "left out: 'a\\nb.pt' has an invisible or control character\n" in err
    assert "partial" not in err
    assert "hidden" not in err


@pytest.mark.parametrize("lacking", ["manifest", "URL"])
def test_repair_says_what_it_lacks_before_it_reads(folder, lacking, monkeypatch, capsys):
    monkeypatch.setattr("unshard.cli.verify.verify_folder", lambda *_, **__: pytest.fail("read"))
    if lacking == "URL":
        assert verify(folder, "--repair") == 2
    else:
        assert main(["verify", str(folder), "--repair", "opt-125m"]) == 2
    assert lacking in capsys.readouterr().err


def test_a_folder_after_repair_is_not_its_url(folder, capsys):
    assert main(["verify", "--repair", str(folder), "--manifest", manifest(folder)]) == 2
    assert f"no DIRECTORY: --repair took {folder} for its URL" in capsys.readouterr().err
    assert main(["verify", "--repair", "https://host/a.pt?Signature=s3cret"]) == 2
    err = capsys.readouterr().err
    assert "no DIRECTORY" in err
    assert "s3cret" not in err


@pytest.mark.parametrize("option", ["--json", "--force", "--repair"])
def test_an_export_ignores_no_option(folder, option, capsys):
    assert verify(folder, "--export", "md5sum", option) == 2
    assert capsys.readouterr().out == ""


def test_numbers_are_told_in_words_that_fit_them(folder, capsys):
    (folder / NAMES[0]).write_bytes(b"wrong")
    (folder / NAMES[2]).unlink()
    assert verify(folder) == 3
    out, err = capsys.readouterr()
    assert out.splitlines()[-1].startswith("1 file matches ")
    assert f"{folder}: of 3 files, 1 different and 1 missing" in err
