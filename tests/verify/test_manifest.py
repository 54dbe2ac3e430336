from __future__ import annotations

import contextlib
import hashlib
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unshard import releases
from unshard.errors import FormatError, UsageError
from unshard.manifest import Digest, file_name_problem, parse_manifest, read_manifest

A, B = "a" * 32, "0123456789abcdef0123456789ABCDEF"

names = st.text(string.ascii_letters + string.digits + "._-+ ü", min_size=1, max_size=40).filter(
    lambda name: file_name_problem(name) is None
)
digests = st.text("0123456789abcdef", min_size=32, max_size=32)


@given(st.dictionaries(names, digests, min_size=1), st.booleans(), st.sampled_from(["\n", "\r\n"]))
def test_all_forms_say_the_same(files, binary, end):
    csv = end.join(["shard,md5sum", *(f"{name},{md5}" for name, md5 in files.items())])
    gnu = "".join(f"{md5} {'* '[not binary]}{name}{end}" for name, md5 in files.items())
    expected = [(name, Digest("md5", md5)) for name, md5 in files.items()]
    assert list(parse_manifest(csv, "m").items()) == expected
    assert list(parse_manifest(gnu, "m").items()) == expected
    bsd = "".join(f"MD5 ({name}) = {md5}{end}" for name, md5 in files.items())
    assert list(parse_manifest(bsd, "m").items()) == expected


def test_names_with_one_digest_are_told():
    other = "c" * 32
    manifest = parse_manifest(
        f"{A}  a\n{B}  b\n{A}  c\n{other}  d\n{A.upper()}  e\n{other}  f", "m"
    )
    assert manifest.shared_digests() == (("a", "c", "e"), ("d", "f"))
    assert parse_manifest(f"{A}  a\n{B}  b", "m").shared_digests() == ()


def test_metas_form_has_no_last_line_end(tmp_path):
    path = tmp_path / "opt_md5sum_shards.csv"
    path.write_text(f"shard,md5sum\nreshard-model_part-1.pt,{A}\nreshard-model_part-0.pt,{B}")
    manifest = read_manifest(path)
    assert list(manifest) == ["reshard-model_part-1.pt", "reshard-model_part-0.pt"]
    assert manifest["reshard-model_part-0.pt"] == Digest("md5", B.lower())
    assert manifest.source == str(path)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "names no file"),
        ("shard,md5sum\n", "names no file"),
        (f"shard,md5sum\na.pt,{A}\na.pt,{B}", "line 3: 'a.pt' comes twice"),
        (f"shard,md5sum\na.pt,{A[:-1]}", "line 2: .* is not an md5"),
        (f"shard,md5sum\na.pt,{A},x", "line 2: neither"),
        (f"shard,md5sum\n\n{A}  a.pt", "line 3: neither"),
        (f"{A}  a.pt\n\\{A}  b\\nc.pt", "line 2: .* is not an md5"),
        (f"MD5 (a.pt) = {A[:-1]}", "line 1: .* is not an md5"),
        (f"MD5 (../a.pt) = {A}", "line 1: .*path separator"),
        (f"{A}  a.pt\nMD5 (a.pt) = {A}", "line 2: 'a.pt' comes twice"),
        (f"SHA256 (a.pt) = {A}{A}", "line 1: "),
        (f"{A}  ../a.pt", "line 1: .*path separator"),
        (f"{A}  /a.pt", "line 1: .*path separator"),
        (f"{A}  a\\b.pt", "line 1: .*path separator"),
        (f"{A}  ..", "line 1: .*begins with a dot"),
        (f"{A}  .bashrc", "line 1: .*begins with a dot"),
        (f"{A}  a.pt.partial", "line 1: .*ends in .partial"),
        (f"{A}  a\x00.pt", "line 1: .*control character"),
        (f"{A}  a\x1b[2J.pt", "line 1: .*control character"),
        (f"{A}  {'a' * 250}", "line 1: .*too long"),
        ("<!doctype html>", "line 1: neither"),
    ],
)
def test_a_bad_line_is_named(tmp_path, text, words):
    path = tmp_path / "m.csv"
    path.write_text(text)
    with pytest.raises(FormatError, match=rf"m\.csv: {words}"):
        read_manifest(path)


@given(st.text(max_size=200))
def test_any_text_is_a_manifest_or_a_format_error(text):
    with contextlib.suppress(FormatError):
        assert all(file_name_problem(name) is None for name in parse_manifest(text, "m"))


@pytest.mark.parametrize("content", [b"PK\x03\x04\xff\xfe", b"\n" * (2**24 + 1)])
def test_a_file_of_weights_is_no_manifest(tmp_path, content):
    path = tmp_path / "a.pt"
    path.write_bytes(content)
    with pytest.raises(FormatError, match="not a manifest"):
        read_manifest(path)


def test_no_manifest_there_is_a_usage_error(tmp_path):
    with pytest.raises(UsageError, match="No such file"):
        read_manifest(tmp_path / "none.csv")
    with pytest.raises(UsageError, match="directory"):
        read_manifest(tmp_path)


def test_dict_txt_is_a_function_of_the_vocabulary():
    content = releases.dict_txt(50272)
    assert content.startswith(b"4 1\n5 1\n")
    assert content.endswith(b"\n50271 1\n")
    expected = releases.TOKENIZER_DIGESTS["dict.txt"]
    assert expected == Digest("md5", hashlib.md5(content).hexdigest())
    assert releases.dict_txt(4) == b""


def test_the_releases_have_the_published_numbers_of_files():
    names = releases.OPT_175B.file_names
    assert len(set(names)) == 992
    assert names[0] == "checkpoint_last-model_part-0-shard0.pt"
    assert names[-1] == "checkpoint_last-model_part-7-shard123.pt"
    for release in (releases.OPT_IML_175B, releases.OPT_IML_MAX_175B):
        assert len(set(release.file_names)) == 16
        before, after = release.template_name.split("*")
        assert release.file_names[15] == f"{before}15{after}"


def test_public_releases_name_their_files():
    counts = {name: release.num_parts for name, release in releases.PUBLIC.items()}
    assert counts == {
        "opt-125m": 1,
        "opt-350m": 1,
        "opt-1.3b": 1,
        "opt-2.7b": 1,
        "opt-6.7b": 1,
        "opt-13b": 2,
        "opt-30b": 4,
        "opt-66b": 8,
    }
