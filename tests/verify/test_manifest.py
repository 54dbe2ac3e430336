from __future__ import annotations

import contextlib
import hashlib
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unshard import releases
from unshard.download import PresignedTemplate
from unshard.errors import FormatError, UsageError
from unshard.manifest import (
    Digest,
    Manifest,
    file_name_problem,
    manifest_json,
    parse_manifest,
    read_manifest,
    sum_lines,
)

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


@pytest.mark.parametrize(
    "text",
    [
        f"{B}  a.pt",
        f"{B} *a.pt\r\n",
        f"{B} a.pt",
        f"{B}  ./a.pt",
        f"# by hand\n\n{B.upper()}  a.pt\n#",
        f"MD5 (a.pt) = {B}",
        f"MD5(a.pt)= {B}",
        f"\ufeff{B}  a.pt",
        f"\ufeffshard,md5sum\r\na.pt,{B}\r\n",
    ],
)
def test_all_that_tools_write_is_read(tmp_path, text):
    (tmp_path / "checklist.chk").write_text(text)
    assert read_manifest(tmp_path / "checklist.chk") == {"a.pt": Digest("md5", B.lower())}


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
        (f"{A}  a.pt\n\\{A}  b\\nc.pt", "line 2: is of a name with a line end"),
        (f"\\{A} *b\\\\c.pt", "line 1: is of a name with a line end or a backslash"),
        (f"{A}  a.pt\n\ufeff{A}  b.pt", r"line 2: '\\ufeffa+' is not an md5"),
        (f"{A}  a.pt\r{B}  b.pt\r", "line 1: .*control character"),
        (f"{A}  a.pt\u2028{B}  b.pt", "line 1: .*an invisible or control character"),
        (f"{A}  a\u200e.pt", "line 1: .*an invisible or control character"),
        (f"{A}  a\u0308.pt\n{A}  b.pt\n{B}  \u00e4.pt", "line 3: 'ä.pt' comes twice, composed of"),
        (f"{A}  a.pt \n", "line 1: 'a.pt ' begins or ends with a space"),
        (f"{A}   a.pt\n", "line 1: ' a.pt' begins or ends with a space"),
        (f"{A}  ./.bashrc", "line 1: .*begins with a dot"),
        (f"{A}  ./../a.pt", "line 1: .*path separator"),
        (f"{A}  .//a.pt", "line 1: .*path separator"),
        (f"{A}  a.pt\n{A}  ./a.pt", "line 2: 'a.pt' comes twice"),
        (f"{A[:-1]} a.pt", "line 1: neither"),
        (f"{A}\ta.pt", "line 1: neither"),
        (f"{A}\x00  a.pt", "line 1: .* is not an md5"),
        (f"{A * 4}  a.pt", "line 1: .* is not an md5 .* or a sha256"),
        (f"SHA512 (a.pt) = {A * 4}", "line 1: neither"),
        ("x" * 2**20, "line 1: neither"),
        (f"{A}  {'x' * 2**20}", "line 1: .*too long"),
        (f"{'a' * 2**20}  a.pt", "line 1: .* is not an md5"),
        (f"shard,md5sum\n# made by hand\na.pt,{A}", "line 2: neither"),
        (f"MD5 (a.pt) = {A[:-1]}", "line 1: .* is not an md5"),
        (f"MD5 (../a.pt) = {A}", "line 1: .*path separator"),
        (f"{A}  a.pt\nMD5 (a.pt) = {A}", "line 2: 'a.pt' comes twice"),
        (f"SHA256 (a.pt) = {A}", "line 1: .* is not a sha256"),
        (f"MD5 (a.pt) = {A}{A}", "line 1: .* is not an md5"),
        (f"{A}{A[:-1]}  a.pt", "line 1: .* is not an md5 .* or a sha256"),
        (f"shard,md5sum\na.pt,{A}{A}", "line 2: .* is not an md5"),
        (f"{A}  a.pt\n{B}  a.pt", "line 2: 'a.pt' comes twice, with two digests"),
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


def test_all_bad_lines_are_told_at_once():
    text = "\n".join([f"{A}  a", "what", f"{A}  b", "is", "this?", f"{A}  ../c", f"{A}  a", ""])
    with pytest.raises(FormatError) as caught:
        parse_manifest(text, "m")
    told = caught.value.message.split("; ")
    assert told[0].startswith("m: lines 2, 4, 5: neither `name,md5`")
    assert told[1:] == ["line 6: '../c' has a path separator", "line 7: 'a' comes twice"]


def test_many_bad_lines_are_counted():
    with pytest.raises(FormatError) as caught:
        parse_manifest("<html>\n" * 5000, "m")
    message = caught.value.message
    assert message.startswith("m: lines 1, 2, 3, 4, 5, 6, 7, 8, 9, 10: neither ")
    assert message.endswith("; and 4990 more")
    assert len(message) < 300


@given(
    st.dictionaries(
        names,
        st.tuples(st.sampled_from(["md5", "sha256"]), st.none() | st.integers(0, 2**63)),
        min_size=1,
    ),
    st.randoms(use_true_random=False),
)
def test_what_is_exported_is_read_back(files, random):
    lengths = {"md5": 32, "sha256": 64}
    digests = {
        name: Digest(algorithm, "".join(random.choices("0123456789abcdef", k=lengths[algorithm])))
        for name, (algorithm, _) in files.items()
    }
    sizes = {name: size for name, (_, size) in files.items() if size is not None}
    manifest = Manifest(digests, "m", sizes)
    again = parse_manifest(manifest_json(manifest), "m")
    assert (list(again.items()), again.sizes) == (list(manifest.items()), sizes)
    again = parse_manifest(sum_lines(manifest), "m")
    assert (list(again.items()), again.sizes) == (list(manifest.items()), {})
    bsd = "".join(
        f"{digest.algorithm.upper()} ({name}) = {digest.value}\n"
        for name, digest in manifest.items()
    )
    assert list(parse_manifest(bsd, "m").items()) == list(manifest.items())


def json_form(*files: str, head: str = '"format": "unshard-manifest", "version": 1') -> str:
    return f'{{{head}, "files": [{", ".join(files)}]}}'


def one(name: str = "a", digest: str = f'"md5": "{A}"', more: str = "") -> str:
    return f'{{"name": "{name}", "digests": {{{digest}}}{more}}}'


def test_the_stronger_digest_counts():
    text = json_form(one(digest=f'"md5": "{A}", "sha256": "{A}{B}", "crc32": "00"'))
    assert parse_manifest(text, "m") == {"a": Digest("sha256", A + B.lower())}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{}", "is JSON without "),
        ("{", "is not valid JSON"),
        (json_form(one(), head='"format": "other", "version": 1'), "is JSON without "),
        (json_form(one(), head='"format": "unshard-manifest", "version": 2'), '"version" is not 1'),
        (json_form(one(), head='"format": "unshard-manifest", "version": true'), '"version" is'),
        (json_form(one(), head='"format": "unshard-manifest"'), '"version" is not 1'),
        ('{"format": "unshard-manifest", "version": 1, "files": {}}', '"files" is no list'),
        (json_form(), "names no file"),
        (json_form(one(), one()), "file 2: 'a' comes twice$"),
        (json_form(one(), one(digest=f'"md5": "{B}"')), "file 2: .* twice, with two digests"),
        (json_form(one("../a"), one(".."), one()), "file 1: .* separator; file 2: .* a dot$"),
        (json_form(one("a\\u0000")), "file 1: .*control character"),
        (json_form(one("\\ud800")), "file 1: .*control character"),
        (json_form(one("a" * 250)), "file 1: .*too long"),
        (json_form(one(digest="")), "file 1: has no digest of md5 or sha256"),
        (json_form(one(digest='"md5": 5')), "file 1: '' is not an md5"),
        (json_form(one(digest=f'"md5": "{A}", "sha256": "{A}"')), "file 1: .*is not a sha256"),
        (json_form("5", "null", '{"name": "a"}'), 'files 1, 2, 3: has no "name" with "digests"'),
        (json_form(one(more=', "size_bytes": -1')), 'file 1: "size_bytes" is no number'),
        (json_form(one(more=', "size_bytes": true')), 'file 1: "size_bytes" is no number'),
        (json_form(one(more=', "size_bytes": 1.5')), 'file 1: "size_bytes" is no number'),
        (json_form(one(more=', "size_bytes": NaN')), "holds NaN"),
        (json_form(one(more=', "name": "b"')), "names a key twice"),
        (json_form("[" * 100_000), "is not valid JSON"),
        (json_form("[" * 500 + "]" * 500), 'file 1: has no "name"'),
        (json_form("," * 500_000), "holds more than 400000 values"),
    ],
)
def test_a_bad_json_manifest_is_told_in_one_line(text, words):
    with pytest.raises(FormatError, match=rf"^m: .*{words}") as caught:
        parse_manifest(text, "m")
    assert len(caught.value.message) < 300
    assert "\n" not in caught.value.message


def numbered(*numbers: tuple[int, int]) -> Manifest:
    names = (f"reshard-model_part-{part}-shard{shard}.pt" for part, shard in numbers)
    return Manifest({name: Digest("md5", A) for name in names}, "m")


def test_a_number_that_is_skipped_is_told():
    grid = [(part, shard) for part in range(8) for shard in range(124)]
    assert numbered(*grid).skipped_names() == ()
    grid.remove((3, 17))
    grid.remove((7, 122))
    assert numbered(*grid).skipped_names() == (
        "reshard-model_part-3-shard17.pt",
        "reshard-model_part-7-shard122.pt",
    )
    padded = {f"model-{n:05}-of-00003.safetensors": Digest("md5", A) for n in (1, 3)}
    assert Manifest(padded, "m").skipped_names() == ("model-00002-of-00003.safetensors",)


@pytest.mark.parametrize(
    "names",
    [
        ["dict.txt", "gpt2-merges.txt"],
        ["checkpoint_100.pt", "checkpoint_200.pt", "checkpoint_300.pt"],
        ["a0.pt", "a999999999.pt"],
        ["a00.pt", "a1.pt", "a02.pt"],
    ],
)
def test_names_that_are_no_grid_skip_nothing(names):
    manifest = Manifest({name: Digest("md5", A) for name in names}, "m")
    assert manifest.skipped_names() == (("a01.pt",) if "a00.pt" in names else ())


@given(st.dictionaries(names, st.just(Digest("md5", A))))
def test_what_is_skipped_is_no_name_of_the_manifest(files):
    assert not set(Manifest(files, "m").skipped_names()) & set(files)


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
        assert list(release.printed) == list(release.file_names)
        assert not release.printed.shared_digests()
    md5 = releases.OPT_IML_175B.printed["checkpoint_1_8000-model_part-10.pt"]
    assert str(md5) == "md5 0e90c1a503ba3967cba334b6de20baa7"


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
        "opt-iml-30b": 2,
        "opt-iml-max-30b": 2,
    }
    first = PresignedTemplate.parse(releases.PUBLIC["opt-iml-max-30b"].url).names(2)[0]
    assert first == "checkpoint_1_6000.pt-model_part-0.pt"
