"""`unshard plan`: what it prints, what it asks a server for, and what it refuses."""

from __future__ import annotations

import io
import json
import re
import shutil
from dataclasses import replace
from typing import Any

import pytest

from unshard.cli.main import main
from unshard.cli.quantities import format_duration
from unshard.dtypes import BFLOAT16
from unshard.releases import OPT_175B, PublicRelease
from unshard.testing.object_store import FakeObjectStore, Fault
from unshard.testing.tiny_checkpoint import write_tiny_checkpoint
from unshard.testing.tiny_hugging_face import HuggingFaceForm, write_tiny_hugging_face
from unshard.testing.tiny_model import TINY

PATTERN = "checkpoint_last-model_part-{part}-shard{shard}.pt"
ALL = ("--parts", "2", "--shards", "3")


@pytest.fixture
def store(raw):
    with FakeObjectStore(raw[0]) as store:
        yield store


@pytest.fixture
def plan(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    """Runs it: exit code, stdout, stderr."""
    monkeypatch.delenv("UNSHARD_URL", raising=False)

    def run(*arguments: object) -> tuple[int, str, str]:
        code = main(["plan", *map(str, arguments)])
        out, err = capsys.readouterr()
        assert "Signature" not in out + err
        return code, out, err

    return run


def as_json(plan, *arguments: object) -> dict[str, Any]:
    code, out, _ = plan(*arguments, "--json")
    assert code == 0
    return json.loads(out)


def test_a_link_is_forecast_as_its_files_are(raw, store, plan):
    link = as_json(plan, store.presigned_url(PATTERN), *ALL)["forecast"]
    files = as_json(plan, raw[0])["forecast"]
    assert link["steps"][0]["name"] == "download"
    assert link["steps"][0]["peak_disk_bytes"] == sum(p.stat().st_size for p in raw[0].iterdir())
    del link["free_memory_bytes"], files["free_memory_bytes"]  # it changes all the time
    assert link | {"link": None, "steps": link["steps"][1:]} == files
    assert files["machines"]


@pytest.mark.slow
def test_992_files_take_992_bytes_and_one_header(tmp_path, plan):
    config = replace(TINY, num_layers=1, num_heads=8)
    write_tiny_checkpoint(tmp_path, config, tp_size=8, fsdp_size=124)
    with FakeObjectStore(tmp_path) as store:
        code, out, err = plan(store.presigned_url(), "--rate", "1kB")
    size = sum(path.stat().st_size for path in tmp_path.iterdir())
    asked = [request.range for request in store.requests]
    assert code == 0
    assert "992 files" in err
    assert asked.count("bytes=0-0") == 992
    assert len(asked) == 993
    assert f"{size / 1e6:.1f} MB" in out
    assert "8 tensor-parallel x 124 FSDP" in out
    assert f"{format_duration(size / 1000)} at 1.0 kB/s" in out
    first = (tmp_path / OPT_175B.file_names[0]).stat().st_size
    assert f"993 requests and {(992 + first) / 1e3:.1f} kB" in out


def test_a_link_that_ends_first_is_told(store, plan):
    url = store.presigned_url(PATTERN, expires_in_s=3 * 3600)
    size = sum(path.stat().st_size for path in store.directory.iterdir())
    assert size > 4 * 3600
    _, out, _ = plan(url, *ALL, "--rate", "1")
    assert f"time    {format_duration(size)} at 1 bytes/s\n" in out
    assert re.search(
        r"link +ends in 3 h 00 min, .*, before the download:\n +\d bytes/s would do", out
    )
    _, out, _ = plan(url, *ALL, "--rate", "1GB")
    assert re.search(r"link +ends in 3 h 00 min, .*, after the download\n", out)
    _, out, _ = plan(url, *ALL)
    assert re.search(r"link +ends in 3 h 00 min, .*: a download in one go needs \d bytes/s", out)
    assert "time    " not in out


def test_a_measured_rate_is_part_of_the_cost(store, plan):
    planned = as_json(plan, store.presigned_url(PATTERN), *ALL, "--measure")
    size = sum(path.stat().st_size for path in store.directory.iterdir())
    assert planned["measured"]["num_bytes"] == size  # all six files, small as they are
    assert planned["cost"]["num_requests"] == len(store.requests)
    assert planned["cost"]["received_bytes"] == sum(each.sent_bytes for each in store.requests)
    rate = planned["forecast"]["link"]["bytes_per_s"]
    assert planned["forecast"]["link"]["elapsed_s"] == pytest.approx(size / rate)


def test_without_ranges_sizes_alone_are_told(store, plan):
    store.inject(Fault(ignore_range=True), times=None)
    code, out, _ = plan(store.presigned_url(PATTERN), *ALL, "--rate", "10MB")
    assert code == 0
    assert "no machine is forecast: " in out
    assert "does not answer ranges" in out
    assert "download " in out
    assert "reshard --to" not in out


@pytest.mark.parametrize("content", [b"PK\3\4" + bytes(1000), b"\x80\x02not a zip" * 99])
def test_an_unknown_layout_is_told_in_one_line(tmp_path, plan, content):
    (tmp_path / "reshard.pt").write_bytes(content)
    with FakeObjectStore(tmp_path) as store:
        code, out, _ = plan(store.presigned_url("reshard.pt"))
    [note] = [line for line in out.splitlines() if line.startswith("note: ")]
    assert code == 0
    assert "is forecast: reshard.pt: " in note
    assert "/tmp" not in note
    code, out, err = plan(tmp_path)
    assert (code, out) == (3, "")
    assert err.startswith(f"error: {tmp_path}/reshard.pt: ")


def test_no_file_is_fetched_whole_for_its_headers(tmp_path, plan, monkeypatch):
    monkeypatch.setattr("unshard.library.stand_ins.HEAD_BYTES", 1000)
    for name in ("weights.tar", "model.safetensors"):
        (tmp_path / name).write_bytes(bytes([255]) * 5000)
        with FakeObjectStore(tmp_path) as store:
            code, out, _ = plan(store.presigned_url(name))
        assert code == 0
        assert f"is forecast: {name}: only torch's files" in out
        assert "1 request and 1 bytes" in out


def test_a_link_that_died_needs_a_person(store, plan):
    code, out, err = plan(store.presigned_url(PATTERN, expires_in_s=-60), *ALL)
    assert (code, out) == (4, "")
    assert "which expired on" in err
    assert "hint: get a fresh link and plan again" in err  # there is nothing to continue


def test_a_wrong_folder_is_one_line(store, plan, tmp_path):
    code, _, err = plan(store.presigned_url("elsewhere-*.pt"), "--parts", "3")
    assert code == 1
    assert "elsewhere-0.pt: the server has no such file (HTTP 404)" in err
    code, _, err = plan(tmp_path / "nothing")
    assert (code, "no such file or folder" in err) == (2, True)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("opt-125", "did you mean opt-125m?"),
        ("OPT-66B", "did you mean opt-66b?"),
        ("opt-iml-1.3b", "no public URL of opt-iml-1.3b is known"),
        ("weights", "or one of opt-125m, "),
    ],
)
def test_a_name_of_nothing_gets_the_hint_of_a_download(plan, name, words, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    code, _, err = plan(name, "--rate", "1MB")
    assert (code, f"error: {name}: no such file or folder" in err) == (2, True)
    assert words in err
    monkeypatch.setenv("UNSHARD_URL", "https://host/a.pt?Signature=s")
    assert "hint: leave it away to plan with the link in UNSHARD_URL" in plan(name)[2]


def test_a_folder_called_like_a_release_is_the_folder(raw, plan, monkeypatch):
    shutil.move(raw[0], raw[0].parent / "opt-125m")
    monkeypatch.chdir(raw[0].parent)
    assert "2 tensor-parallel x 3 FSDP" in plan("opt-125m")[1]


def test_a_public_release_goes_by_its_name(raw, plan, monkeypatch, tmp_path):
    with FakeObjectStore(raw[0], is_public=True) as store:
        url = store.presigned_url("checkpoint_last-model_part-*-shard0.pt")
        monkeypatch.setattr("unshard.releases.PUBLIC", {"tiny": PublicRelease(url, 2)})
        code, out, _ = plan("tiny")
    assert code == 0
    assert "files   2, " in out
    assert "link    does not say when it ends" in out


@pytest.mark.parametrize("way", ["environment", "stdin"])
def test_the_url_is_found_as_for_a_download(store, plan, way, monkeypatch, tmp_path):
    manifest = tmp_path / "sums.md5"
    manifest.write_text("".join(f"{'0' * 32}  {path.name}\n" for path in store.directory.iterdir()))
    if way == "environment":
        monkeypatch.setenv("UNSHARD_URL", store.presigned_url())
    else:
        monkeypatch.setattr("sys.stdin", io.StringIO(store.presigned_url() + "\n"))
    _, out, _ = plan(*(["-"] if way == "stdin" else []), "--manifest", manifest)
    assert "files   6, " in out


def test_nothing_to_plan_is_a_usage_error(plan):
    code, _, err = plan()
    assert code == 2
    assert "no URL" in err
    assert "UNSHARD_URL" in err


@pytest.mark.parametrize(
    "options", [("--rate", "1MB"), ("--measure",), ("--parts", "2"), ("--manifest", "x.csv")]
)
def test_options_of_links_are_not_ignored(raw, plan, options):
    code, _, err = plan(raw[0], *options)
    assert code == 2
    assert "go with a URL" in err


def test_a_rate_is_given_or_measured(plan):
    for rate in (("0",), ("1MB", "--measure")):
        code, _, err = plan("https://host/a.pt?x=1", "--rate", *rate)
        assert (code, "--rate" in err) == (2, True)


def test_the_number_of_parts_is_chosen(raw, plan):
    assert "reshard --to metaseq --tp 4 " in plan(raw[0], "--tp", "4")[1]
    code, _, err = plan(raw[0], "--tp", "3")
    assert code == 2
    assert "3 tensor-parallel parts" in err


def test_too_little_disk_is_told(raw, store, plan, monkeypatch):
    def told(free: int, *arguments: object) -> list[str]:
        usage = shutil._ntuple_diskusage(10**12, 0, free)
        monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
        return re.findall(
            r"^too little disk is free here for (.*)$", plan(*arguments)[1], re.MULTILINE
        )

    size = sum(path.stat().st_size for path in raw[0].iterdir())
    link = (store.presigned_url(PATTERN), *ALL)
    beside = "reshard --to safetensors, reshard --to metaseq --tp 2"
    in_place = beside.replace("ors", "ors, reshard --to safetensors --reclaim")
    assert told(10**9, raw[0]) == told(10**9, *link) == []
    assert told(10, raw[0]) == [f"{in_place}, reshard --to metaseq --tp 2 --reclaim"]
    assert told(size - 1, *link) == ["all of it"]
    assert told(size, *link)[0].startswith("reshard")


def test_weights_that_exceed_the_memory_are_told(tmp_path, plan, monkeypatch):
    write_tiny_hugging_face(tmp_path, TINY, form=HuggingFaceForm(BFLOAT16))
    assert "free memory" not in plan(tmp_path)[1]
    monkeypatch.setattr("unshard.library.planning.free_memory_bytes", lambda: 10_000)
    _, out, _ = plan(tmp_path)
    exceed = "weights exceed the 10.0 kB of free memory: "
    assert f"serve --dtype bf16: {exceed}mapped from disk" in out
    assert f"serve --dtype fp32: {exceed}refused" in out
    steps = as_json(plan, tmp_path)["forecast"]["steps"]
    assert [step["weights"] for step in steps][-2:] == ["mapped", "refused"]
