"""Two or three ranges of each file are enough to plan a reshard of all of them."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path

import pytest

from unshard.download import PresignedTemplate, RetryPolicy
from unshard.download.pieces import NoRangesError, Pieces
from unshard.errors import CheckpointError, FormatError, NoSpaceError
from unshard.index.build import open_checkpoint
from unshard.library import stand_ins
from unshard.library.stand_ins import check_same_headers, make_stand_ins
from unshard.plan.metaseq_target import plan_metaseq
from unshard.plan.plan_json import plan_to_json
from unshard.testing.layouts import LAYOUTS
from unshard.testing.object_store import FakeObjectStore, Fault


def draw(store: FakeObjectStore, folder: Path) -> list[str]:
    names = sorted(path.name for path in store.directory.iterdir())
    folder.parent.mkdir()
    template = PresignedTemplate.parse(store.presigned_url())
    with Pieces(
        template, max_connections=2, stall_timeout_s=20, retry=RetryPolicy(first_delay_s=0)
    ) as pieces:
        make_stand_ins(pieces, names, folder, folder.parent, workers=2)
    return names


def plan_of(folder: Path) -> dict[str, object]:
    plan = plan_to_json(plan_metaseq(open_checkpoint(folder), 1)) | {"source": None}
    return plan | {"paths": [Path(path).name for path in plan["paths"]]}


@pytest.mark.parametrize(
    "layout", ["raw", "raw, optimizer state", "one file", "safetensors", "bin, several files"]
)
def test_the_plan_is_that_of_the_whole_files(
    tmp_path: Path, layout: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stand_ins, "HEAD_BYTES", 512)
    monkeypatch.setattr(stand_ins, "TAIL_BYTES", 64)
    LAYOUTS[layout](tmp_path / "src")
    with FakeObjectStore(tmp_path / "src") as store:
        store.inject(Fault(status=503))
        names = draw(store, tmp_path / "target/heads")
        sent = sum(request.sent_bytes for request in store.requests if request.status == 206)
    assert sent < sum(path.stat().st_size for path in (tmp_path / "src").iterdir())
    assert plan_of(tmp_path / "target/heads") == plan_of(tmp_path / "src")
    for name in names:
        check_same_headers(tmp_path / "target/heads" / name, tmp_path / "src" / name)


def test_archives_as_torch_writes_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch = pytest.importorskip("torch")
    monkeypatch.setattr(stand_ins, "HEAD_BYTES", 100)
    monkeypatch.setattr(stand_ins, "TAIL_BYTES", 100)
    (tmp_path / "src").mkdir()
    torch.save({"model": {"a": torch.arange(999), "b": torch.ones(7)}}, tmp_path / "src/a.pt")
    with FakeObjectStore(tmp_path / "src") as store:
        draw(store, tmp_path / "target/heads")
    check_same_headers(tmp_path / "target/heads/a.pt", tmp_path / "src/a.pt")


def test_another_file_of_the_same_name_is_found_out(tmp_path: Path) -> None:
    LAYOUTS["raw"](tmp_path / "src")
    with FakeObjectStore(tmp_path / "src") as store:
        first, second, *_ = draw(store, tmp_path / "target/heads")
    shutil.copyfile(tmp_path / "src" / second, tmp_path / "src" / first)
    with pytest.raises(CheckpointError, match="another file"):
        check_same_headers(tmp_path / "target/heads" / first, tmp_path / "src" / first)


def test_a_server_without_ranges_says_so(tmp_path: Path) -> None:
    LAYOUTS["raw"](tmp_path / "src")
    with FakeObjectStore(tmp_path / "src") as store:
        store.inject(Fault(ignore_range=True), times=None)
        with pytest.raises(NoRangesError, match="does not answer ranges"):
            draw(store, tmp_path / "target/heads")


def test_headers_that_take_a_whole_file_are_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stand_ins, "HEAD_BYTES", 100)
    monkeypatch.setattr(stand_ins, "LARGEST_BYTES", 10_000)
    (tmp_path / "src").mkdir()
    huge = (20_000).to_bytes(8, "little") + bytes(30_000)
    (tmp_path / "src/model.safetensors").write_bytes(huge)
    with (
        FakeObjectStore(tmp_path / "src") as store,
        pytest.raises(FormatError, match="its headers take 19908 bytes"),
    ):
        draw(store, tmp_path / "target/heads")
    assert sum(request.sent_bytes for request in store.requests) == 100


def test_a_full_disk_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_arguments: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    LAYOUTS["one file"](tmp_path / "src")
    monkeypatch.setattr(stand_ins.os, "pwrite", full)
    with (
        FakeObjectStore(tmp_path / "src") as store,
        pytest.raises(NoSpaceError, match="heads: No space left"),
    ):
        draw(store, tmp_path / "target/heads")
