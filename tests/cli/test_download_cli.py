"""The two commands: what they print where, and what they raise."""

from __future__ import annotations

import dataclasses
import hashlib
import json

import pytest
from click.testing import CliRunner

from unshard import releases
from unshard.cli.download import command as download_command
from unshard.cli.verify import command as verify_command
from unshard.errors import DestinationError, IntegrityError, LinkRefusedError, UsageError
from unshard.releases import PublicRelease
from unshard.testing.object_store import FakeObjectStore, Fault

CONTENTS = {f"reshard-model_part-{i}.pt": b"PK%d" % i * 1000 for i in range(3)}


@pytest.fixture
def store(tmp_path):
    (tmp_path / "objects").mkdir()
    with FakeObjectStore(tmp_path / "objects") as store:
        for name, content in CONTENTS.items():
            store.put(name, content)
        yield store


@pytest.fixture
def csv(tmp_path):
    rows = [f"{name},{hashlib.md5(content).hexdigest()}" for name, content in CONTENTS.items()]
    path = tmp_path / "md5sum.csv"
    path.write_text("\n".join(["shard,md5sum", *rows]))
    return path


@pytest.fixture(autouse=True)
def assets(tmp_path, monkeypatch):
    """What metaseq publishes beside the weights: nothing, until a test puts it there."""
    (tmp_path / "assets").mkdir()
    with FakeObjectStore(tmp_path / "assets", is_public=True) as store:
        monkeypatch.setattr(releases, "ASSETS", store.presigned_url("", folder="/assets/"))
        yield store


def run(command, *arguments, stdin=None, env=None):
    result = CliRunner().invoke(
        command, [str(a) for a in arguments], input=stdin, env={"UNSHARD_URL": None, **(env or {})}
    )
    if result.exception and not isinstance(result.exception, SystemExit):
        result.exception.stdout = result.stdout
        raise result.exception
    return result


def contents(directory):
    return {path.name: path.read_bytes() for path in directory.glob("*.pt")}


@pytest.mark.parametrize("way", ["argument", "stdin", "environment"])
def test_the_url_comes_by_argument_stdin_or_environment(store, csv, tmp_path, way):
    target, url = tmp_path / "target", store.presigned_url()
    if way == "argument":
        result = run(download_command, url, target, "--manifest", csv)
    elif way == "stdin":
        result = run(download_command, "-", target, "--manifest", csv, stdin=url + "\n")
    else:
        result = run(download_command, target, "--manifest", csv, env={"UNSHARD_URL": url})
    assert contents(target) == CONTENTS
    assert "3 of 3 files fetched; all verified" in result.stdout
    assert "Signature" not in result.output


def test_the_report_as_json(store, csv, tmp_path):
    arguments = [store.presigned_url(), tmp_path / "target", "--manifest", csv, "--json"]
    report = json.loads(run(download_command, *arguments).stdout)
    assert report["fetched"] == list(CONTENTS)
    assert report["received_bytes"] == sum(map(len, CONTENTS.values()))
    again = json.loads(run(download_command, *arguments).stdout)
    assert (again["fetched"], again["kept"], again["received_bytes"]) == ([], list(CONTENTS), 0)


def test_parts_of_a_pattern_need_no_manifest(store, tmp_path):
    url = store.presigned_url("reshard-model_part-*.pt")
    result = run(download_command, url, tmp_path / "target", "--parts", 3)
    assert contents(tmp_path / "target") == CONTENTS
    assert "no digests to verify" in result.stdout


def test_parts_and_shards_of_a_pattern(store, tmp_path):
    names = [f"last-model_part-{part}-shard{shard}.pt" for part in (0, 1) for shard in (0, 1)]
    for name in names:
        store.put(name, b"PK" + name.encode())
    url = store.presigned_url("last-model_part-{part}-shard{shard}.pt")
    run(download_command, url, tmp_path / "target", "--parts", 2, "--shards", 2)
    assert contents(tmp_path / "target") == {name: b"PK" + name.encode() for name in names}


def test_a_rate_is_given_in_the_units_that_people_use(store, csv, tmp_path):
    arguments = (store.presigned_url(), tmp_path / "target", "--manifest", csv, "--json")
    report = json.loads(run(download_command, *arguments, "--max-rate", "40kB").stdout)
    assert report["received_bytes"] / report["elapsed_s"] < 40_000
    with pytest.raises(UsageError, match="would never end"):
        run(download_command, *arguments, "--max-rate", "0")


def test_a_known_release_needs_neither(store, tmp_path, monkeypatch):
    release = releases.OPT_IML_175B
    contents_of = {name: b"PK" + name.encode() for name in release.file_names}
    for name, content in contents_of.items():
        store.put(name, content)
    md5s = tuple(hashlib.md5(content).hexdigest() for content in contents_of.values())
    known = dataclasses.replace(release, md5s=md5s)
    monkeypatch.setitem(releases.BY_TEMPLATE_NAME, release.template_name, known)
    url = store.presigned_url("checkpoint_1_8000-model_part-*.pt")
    result = run(download_command, url, tmp_path / "target")
    assert contents(tmp_path / "target") == contents_of
    assert "verifying by the md5s of https://github.com/facebookresearch/metaseq" in result.stderr
    assert "16 of 16 files fetched; all verified" in result.stdout
    assert "no tokenizer: 2 of 2 files failed" in result.stderr
    assert "; no tokenizer beside them" in result.stdout
    assert (tmp_path / "target" / "dict.txt").exists()


def test_a_public_release_goes_by_name_into_a_folder_of_that_name(tmp_path, monkeypatch):
    (tmp_path / "objects").mkdir()
    monkeypatch.chdir(tmp_path)
    with FakeObjectStore(tmp_path / "objects", is_public=True) as store:
        for name, content in CONTENTS.items():
            store.put(name, content)
        release = PublicRelease(store.presigned_url("reshard-model_part-*.pt"), len(CONTENTS))
        monkeypatch.setitem(releases.PUBLIC, "opt-13b", release)
        run(download_command, "opt-13b")
        run(download_command, "opt-13b", "elsewhere")
    assert contents(tmp_path / "opt-13b") == contents(tmp_path / "elsewhere") == CONTENTS


def test_one_release_does_not_pass_for_another_in_the_same_folder(store, csv, tmp_path):
    name, target = "reshard-model_part-0.pt", tmp_path / "target"
    run(download_command, store.presigned_url(name, folder="/opt/125m/"), target)
    run(download_command, store.presigned_url(name, folder="/opt/125m/"), target)
    num_requests = len(store.requests)
    with pytest.raises(DestinationError, match=r"is of other weights, from /opt/125m/"):
        run(download_command, store.presigned_url(name, folder="/opt/1.3b/"), target)
    assert num_requests == len(store.requests) == 1
    other = store.presigned_url(folder="/opt/1.3b/")
    run(download_command, other, target, "--manifest", csv)  # a manifest tells them apart
    assert contents(target) == CONTENTS


def test_a_releases_name_beside_a_link_in_the_environment_is_not_guessed(
    store, csv, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    env = {"UNSHARD_URL": store.presigned_url()}
    for name in ("opt-13b", "opt-13", "OPT-13B"):
        with pytest.raises(UsageError, match=f"{name}: the release opt-13b, or a folder") as caught:
            run(download_command, name, "--manifest", csv, env=env)
        assert f"`./{name}` is the folder" in caught.value.hint
    assert store.requests == []
    run(download_command, "./opt-13b", "--manifest", csv, env=env)
    assert contents(tmp_path / "opt-13b") == CONTENTS


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(UsageError) as caught:
        run(download_command, "opt-9b")
    assert "opt-125m, opt-350m" in caught.value.hint


@pytest.mark.parametrize(
    ("name", "end"),
    [("opt-175b", "stubbed.pt"), ("OPT-IML-Max-175B", "checkpoint_1_12000-model_part-*.pt")],
)
def test_a_name_whose_link_is_mailed_says_which_one_it_is(name, end):
    with pytest.raises(UsageError) as caught:
        run(download_command, name)
    assert f"Meta mails the link of {name.lower()}, which ends in {end}?" in caught.value.hint


def test_a_name_without_a_public_url_says_what_is_needed():
    with pytest.raises(UsageError) as caught:
        run(download_command, "opt-iml-1.3b")
    assert "no public URL of opt-iml-1.3b is known: give a link" in caught.value.hint
    assert "--parts" in caught.value.hint


def test_a_link_that_lost_its_beginning_is_not_repeated():
    with pytest.raises(UsageError) as caught:
        run(download_command, "cdn.example/stubbed.pt?&Policy=SECRET&Signature=s&Key-Pair-Id=k")
    assert "SECRET" not in f"{caught.value} {caught.value.hint}"


@pytest.mark.parametrize(("typed", "meant"), [("opt-1.3B", "opt-1.3b"), ("opt13b", "opt-13b")])
def test_a_name_like_a_known_one_brings_that_one_to_mind(typed, meant):
    with pytest.raises(UsageError) as caught:
        run(download_command, typed)
    assert f"did you mean {meant}?" in caught.value.hint


def test_one_public_file(tmp_path):
    (tmp_path / "reshard.pt").write_bytes(b"PK" * 100)
    with FakeObjectStore(tmp_path, is_public=True) as store:
        run(download_command, store.presigned_url("reshard.pt"), tmp_path / "target")
    assert contents(tmp_path / "target") == {"reshard.pt": b"PK" * 100}


def test_a_refused_link_ends_with_4_and_says_no_secret(store, csv, tmp_path):
    store.inject(Fault(status=403), times=None)
    with pytest.raises(LinkRefusedError) as e:
        run(download_command, store.presigned_url(), tmp_path / "target", "--manifest", csv)
    assert e.value.exit_code == 4
    assert "Signature" not in f"{e.value} {e.value.hint} {e.value.stdout}"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "no URL"),
        (["-"], "no URL on stdin"),
        (["somewhere"], "UNSHARD_URL is not set, and 'somewhere' is no URL"),
        (["ftp://cdn.example/a/stubbed.pt?k=v"], "does not begin with https://"),
        (["http://127.0.0.1%0a/x.pt?k=v"], "does not begin with https://"),
        (["https://cdn.example/a/stubbed.pt?"], "lost part of its query"),
        (["https://cdn.example/a/part-*.pt?k=v"], "how many files"),
        (["https://cdn.example/a/part-1.pt?k=v", "--parts", 2], "no `[*]` in the URL"),
        (["https://cdn.example/a/part-*.pt?k=v", "--parts", 2, "--manifest", "m"], "leave --parts"),
        (["https://cdn.example/a/part-*.pt?k=v", "--manifest", "none.csv"], "none.csv"),
    ],
)
def test_an_impossible_request_is_a_usage_error(arguments, words):
    with pytest.raises(UsageError, match=words):
        run(download_command, *arguments)


def test_help_tells_how_to_keep_the_url_out_of_the_list_of_processes():
    text = run(download_command, "--help").stdout
    assert "UNSHARD_URL" in text
    assert "list of processes" in " ".join(text.split())


@pytest.fixture
def folder(tmp_path, csv):
    directory = tmp_path / "folder"
    directory.mkdir()
    for name, content in CONTENTS.items():
        (directory / name).write_bytes(content)
    csv.rename(directory / "opt_md5sum_shards.csv")
    return directory


def test_verify_finds_the_manifest_and_confirms(folder):
    assert run(verify_command, folder).stdout.startswith("3 files match ")


def test_verify_names_every_bad_file_and_ends_with_3(folder):
    (folder / "reshard-model_part-0.pt").write_bytes(b"x")
    (folder / "reshard-model_part-1.pt").unlink()
    (folder / "more.pt").touch()
    with pytest.raises(IntegrityError, match="of 3 files, 1 different and 1 missing") as e:
        run(verify_command, folder)
    assert e.value.exit_code == 3
    lines = e.value.stdout.splitlines()
    assert lines[0].startswith("different  reshard-model_part-0.pt  has md5 ")
    assert lines[1:3] == ["missing    reshard-model_part-1.pt", "extra      more.pt"]
    with pytest.raises(IntegrityError) as e:
        run(verify_command, folder, "--json")
    report = json.loads(e.value.stdout)
    assert (report["is_right"], report["missing"]) == (False, ["reshard-model_part-1.pt"])
    assert report["different"][0]["name"] == "reshard-model_part-0.pt"


def test_verify_tells_lines_of_the_manifest_that_cannot_all_be_right(folder):
    for found in folder.glob("*.csv"):
        found.unlink()
    md5s = {name: hashlib.md5(content).hexdigest() for name, content in CONTENTS.items()}
    md5s["reshard-model_part-2.pt"] = md5s["reshard-model_part-1.pt"]
    lines = "".join(f"{md5}  {name}\n" for name, md5 in md5s.items())
    (folder / "checklist.chk").write_text(lines)
    with pytest.raises(IntegrityError) as caught:
        run(verify_command, folder)
    assert "suspect    reshard-model_part-1.pt, reshard-model_part-2.pt" in caught.value.stdout
    assert "different  reshard-model_part-2.pt" in caught.value.stdout


def test_verify_wants_exactly_one_manifest(folder):
    (folder / "other.md5").touch()
    with pytest.raises(UsageError, match=r"opt_md5sum_shards.csv, other.md5") as e:
        run(verify_command, folder)
    assert "--manifest" in e.value.hint
    assert (
        run(verify_command, folder, "--manifest", folder / "opt_md5sum_shards.csv").exit_code == 0
    )
    for path in (folder / "other.md5", folder / "opt_md5sum_shards.csv"):
        path.unlink()
    with pytest.raises(IntegrityError, match=r"not a torch\.save checkpoint"):
        run(verify_command, folder)
