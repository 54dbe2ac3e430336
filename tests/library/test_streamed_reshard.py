"""A reshard beside its download writes what it would write after it, whatever happens."""

from __future__ import annotations

import hashlib
import json
import shutil
import signal
import threading
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from unshard.download import Link, PresignedTemplate, RetryPolicy, checker, download
from unshard.errors import (
    CheckpointError,
    DestinationError,
    DigestError,
    LinkRefusedError,
    NoSpaceError,
    TransferError,
)
from unshard.execute import finishing
from unshard.execute.copy import Copier
from unshard.execute.journal import recorded_fingerprint
from unshard.execute.reclaim import unfinished
from unshard.execute.run import run_plan
from unshard.execute.task_log import ArrivalLog
from unshard.finished import JOURNAL_NAME
from unshard.index.build import open_checkpoint
from unshard.index.checkpoint import Checkpoint
from unshard.library import resharded, stand_ins
from unshard.library.download_source import HEADS, Source
from unshard.library.streamed_reshard import Streamed, streamed_reshard
from unshard.manifest import Digest, Manifest
from unshard.plan.copy_plan import CopyPlan
from unshard.plan.metaseq_target import plan_metaseq
from unshard.plan.plan_json import plan_digest
from unshard.plan.safetensors_target import plan_safetensors
from unshard.progress import Progress, Silent
from unshard.testing.layouts import LAYOUTS
from unshard.testing.object_store import FakeObjectStore, Fault, LoggedRequest

PlanOf = Callable[[Checkpoint], CopyPlan]
TARGETS: dict[str, PlanOf] = {
    "1 part": partial(plan_metaseq, tp_size=1),
    "4 parts": partial(plan_metaseq, tp_size=4),
    "safetensors": plan_safetensors,
}


class Site:
    """A checkpoint on a server, and the folders it goes to."""

    def __init__(self, store: FakeObjectStore, root: Path) -> None:
        self.store, self.root = store, root
        self.directory, self.destination = root / "files", root / "out"
        self.manifest = manifest_of(store.directory)

    def source(self, files: Manifest | list[str] | None = None) -> Source:
        return Source(
            Link(PresignedTemplate.parse(self.store.presigned_url())),
            self.manifest if files is None else files,
            self.directory,
            max_connections=2,
            stall_timeout_s=20,
            retry=RetryPolicy(attempts=2, first_delay_s=0),
        )

    def stream(
        self,
        plan_of: PlanOf,
        *,
        reclaim: bool = False,
        files: list[str] | None = None,
        source: Source | None = None,
        asked: str = "this",
        reshard: Callable[..., list[Path]] = run_plan,
        progress: Progress | None = None,
    ) -> Streamed:
        return streamed_reshard(
            source or self.source(files),
            self.destination,
            plan_of,
            partial(reshard, workers=1),
            asked=asked,
            left=unfinished(self.destination),
            reclaim=reclaim,
            progress=progress or Silent(),
        )

    def expected(self, plan_of: PlanOf) -> Path:
        """What comes out when one follows the other, in folders of their own."""
        files, out = self.root / "plain", self.root / "expected"
        template = PresignedTemplate.parse(self.store.presigned_url())
        download(template, self.manifest, files, max_connections=2)
        run_plan(plan_of(open_checkpoint(files)), out, workers=1)
        return out


class Notes(Silent):
    """A progress that keeps what a person is told."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def note(self, line: str) -> None:
        self.lines.append(line)


class Interrupting(Silent):
    """Calls `action` once `num_bytes` have come."""

    def __init__(self, num_bytes: int, action: Callable[[], None]) -> None:
        self._left, self._action = num_bytes, action

    def advance(self, num_bytes: int) -> None:
        before, self._left = self._left, self._left - num_bytes
        if before > 0 >= self._left:
            self._action()


def manifest_of(folder: Path) -> Manifest:
    digests = {
        path.name: Digest("md5", hashlib.md5(path.read_bytes()).hexdigest())
        for path in sorted(folder.iterdir())
    }
    return Manifest(digests, "test.csv")


def outputs(folder: Path) -> dict[str, bytes]:
    """All but unshard.json, which names the source's files and their times."""
    return {
        path.name: path.read_bytes() for path in folder.iterdir() if path.name != "unshard.json"
    }


def recorded(site: Site) -> dict[str, Any]:
    """What the output says of itself."""
    return json.loads((site.destination / "unshard.json").read_bytes())


@pytest.fixture
def site_of(tmp_path: Path):
    stores: list[FakeObjectStore] = []

    def make(layout: str) -> Site:
        LAYOUTS[layout](tmp_path / "objects")
        stores.append(FakeObjectStore(tmp_path / "objects"))
        return Site(stores[-1], tmp_path)

    yield make
    for store in stores:
        store.close()


@pytest.mark.parametrize(
    ("target", "reclaim"),
    [
        ("1 part", False),
        ("safetensors", True),
        pytest.param("1 part", True, marks=pytest.mark.slow),
        pytest.param("4 parts", False, marks=pytest.mark.slow),
        pytest.param("4 parts", True, marks=pytest.mark.slow),
        pytest.param("safetensors", False, marks=pytest.mark.slow),
    ],
)
def test_it_writes_what_plain_commands_write(site_of, target: str, reclaim: bool) -> None:
    site = site_of("raw")
    streamed = site.stream(TARGETS[target], reclaim=reclaim)
    expected = site.expected(TARGETS[target])
    assert outputs(site.destination) == outputs(expected)
    assert recorded_fingerprint(site.destination) == recorded_fingerprint(expected)
    assert streamed.report is not None
    assert streamed.report.is_verified
    left = {path.name for path in site.directory.iterdir() if not path.name.startswith(".")}
    assert left == (set() if reclaim else set(site.manifest))
    assert not (site.directory / HEADS).exists()


@pytest.mark.slow
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout(site_of, layout: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stand_ins, "HEAD_BYTES", 512)
    monkeypatch.setattr(stand_ins, "TAIL_BYTES", 64)
    site = site_of(layout)
    notes = Notes()
    site.stream(plan_safetensors, progress=notes)
    assert not [line for line in notes.lines if "has to wait" in line]
    plan = plan_safetensors(open_checkpoint(site.directory))
    assert recorded(site)["plan"] == plan_digest(plan)
    run_plan(plan, site.root / "expected", workers=1)
    assert outputs(site.destination) == outputs(site.root / "expected")


def part(tp_rank: int, fsdp_rank: int) -> str:
    return f"checkpoint_last-model_part-{tp_rank}-shard{fsdp_rank}.pt"


def broken_at(site: Site, name: str, fault: Fault, **options: bool) -> None:
    """Leaves a run that `fault` of the file `name` has ended, after a task was done."""
    site.source().draw(Silent())
    site.store.inject(fault, file=name, times=None)
    done = threading.Event()
    held = mock.patch.object(site.store, "requests", Holding(name, done))
    at_once = mock.patch.object(checker, "GATHER_S", 0.0)
    with held, at_once, pytest.raises((TransferError, DigestError)):
        site.stream(plan_safetensors, reshard=partial(telling, done), **options)
    site.store.heal()


def telling(done: threading.Event, *arguments: Any, **options: Any) -> list[Path]:
    """`run_plan` that tells when it has copied something."""

    class Told(Silent):
        def advance(self, num_bytes: int) -> None:
            done.set()

    return run_plan(*arguments, **options | {"progress": Told()})


def test_files_come_in_the_order_in_which_tasks_can_use_them(site_of) -> None:
    names = site_of("raw").source().names()
    assert names == [part(tp, fsdp) for fsdp in range(3) for tp in range(2)]


@pytest.mark.parametrize("reclaim", [False, True])
def test_a_file_that_is_wrong_is_never_read(site_of, reclaim: bool) -> None:
    site, wrong = site_of("raw"), part(1, 1)
    broken_at(site, wrong, Fault(wrong_bytes=True), reclaim=reclaim)
    arrived = {Path(path).name for path in ArrivalLog(site.destination).read()}
    assert arrived
    assert wrong not in arrived
    for line in (site.destination / ".unshard.tasks").read_text().splitlines():
        assert wrong not in line
    site.stream(plan_safetensors, reclaim=reclaim)
    assert outputs(site.destination) == outputs(site.expected(plan_safetensors))


def test_another_file_than_the_one_that_was_planned_with_is_an_error(site_of) -> None:
    site, changed = site_of("raw"), part(0, 2)
    site.source().draw(Silent())
    site.store.put(changed, (site.store.directory / part(1, 2)).read_bytes())
    with pytest.raises(CheckpointError, match=f"{changed}: is another file"):
        site.stream(plan_safetensors, files=list(site.manifest))
    assert not (site.destination / "model.safetensors").exists()


def test_what_was_reclaimed_is_not_fetched_again(site_of, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(finishing, "RECLAIM_BATCH_BYTES", 1)
    site = site_of("raw")
    broken_at(site, part(1, 2), Fault(status=404), reclaim=True)
    arrived = {Path(path).name for path in ArrivalLog(site.destination).read()}
    assert arrived
    num_requests = len(site.store.requests)
    streamed = site.stream(plan_safetensors, reclaim=True)
    assert not arrived & {request.name for request in site.store.requests[num_requests:]}
    assert streamed.report is not None
    assert part(1, 2) in streamed.report.fetched
    assert outputs(site.destination) == outputs(site.expected(plan_safetensors))


@pytest.fixture
def reclaimed(site_of) -> Site:
    """All has been done, the files are gone, and the server would refuse whoever asks."""
    site = site_of("raw")
    site.stream(plan_safetensors, reclaim=True)
    assert not list(site.directory.glob("*.pt"))
    site.store.expire_links()
    site.store.requests.clear()
    return site


def test_what_is_all_done_is_known_without_asking(reclaimed: Site) -> None:
    before = outputs(reclaimed.destination)
    again = reclaimed.stream(plan_safetensors, reclaim=True, source=by_dead_link(reclaimed))
    assert again == Streamed(
        None, [reclaimed.destination / name for name in recorded(reclaimed)["files"]]
    )
    assert outputs(reclaimed.destination) == before
    assert reclaimed.store.requests == []


def by_dead_link(site: Site, files: Manifest | list[str] | None = None) -> Source:
    template = PresignedTemplate.parse(site.store.presigned_url(expires_in_s=-1))
    return replace(site.source(files), link=Link(template))


def test_what_is_all_done_is_known_by_names_alone(reclaimed: Site) -> None:
    source = by_dead_link(reclaimed, list(reclaimed.manifest))
    assert reclaimed.stream(plan_safetensors, reclaim=True, source=source).report is None
    other = replace(source.link.current, folder="/other/")
    with pytest.raises(LinkRefusedError):
        reclaimed.stream(plan_safetensors, reclaim=True, source=replace(source, link=Link(other)))


def note_of(site: Site) -> Path:
    [note] = site.directory.glob(f"{resharded.STEM}*")
    return note


def shorten(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


@pytest.mark.parametrize(
    "spoil",
    [
        lambda site: (site.destination / "model.safetensors").unlink(),
        lambda site: shorten(site.destination / "model.safetensors"),
        lambda site: shutil.rmtree(site.destination),
        lambda site: (site.directory / part(0, 0)).write_bytes(b"PK"),
        lambda site: (site.directory / JOURNAL_NAME).unlink(),
        lambda site: note_of(site).write_text("[]"),
        lambda site: note_of(site).write_text('{"files": 7}'),
        lambda site: (site.destination / "unshard.json").write_text('{"plan": "another"}'),
    ],
    ids=["lost", "short", "gone", "came back", "unknown", "rubbish", "hostile", "another"],
)
def test_what_may_not_be_done_is_asked_for(reclaimed: Site, spoil: Callable[[Site], None]) -> None:
    spoil(reclaimed)
    with pytest.raises(LinkRefusedError):
        reclaimed.stream(plan_safetensors, reclaim=True, source=by_dead_link(reclaimed))


def test_another_request_is_not_done(reclaimed: Site) -> None:
    source = by_dead_link(reclaimed)
    digests = {**reclaimed.manifest, part(0, 0): Digest("md5", "0" * 32)}
    for asked, files in (("other", source.files), ("this", Manifest(digests, "other.csv"))):
        with pytest.raises(LinkRefusedError):
            reclaimed.stream(
                plan_safetensors, reclaim=True, asked=asked, source=replace(source, files=files)
            )


def test_a_stopped_run_is_finished_by_plain_commands(site_of) -> None:
    site = site_of("raw")
    broken_at(site, part(1, 2), Fault(status=404))
    tasks = (site.destination / ".unshard.tasks").read_bytes()
    assert tasks
    site.source().fetch(site.source().names(), Silent())
    run_plan(plan_safetensors(open_checkpoint(site.directory)), site.destination, workers=1)
    assert outputs(site.destination) == outputs(site.expected(plan_safetensors))
    assert {Path(path).name for path in recorded(site)["sources"]} == set(site.manifest)


class Holding(list[LoggedRequest]):
    """Lets the file `name` wait for `event`."""

    def __init__(self, name: str, event: threading.Event) -> None:
        super().__init__()
        self._name, self._event = name, event

    def append(self, request: LoggedRequest) -> None:
        super().append(request)
        if request.name == self._name:
            self._event.wait(60)


def test_a_reshard_that_fails_ends_the_download(site_of, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(*_arguments: object) -> None:
        raise NoSpaceError("out of space")

    def reshard(*arguments: Any, **options: Any) -> list[Path]:
        try:
            return run_plan(*arguments, **options)
        finally:
            ended.set()

    site, ended = site_of("raw"), threading.Event()
    site.source().draw(Silent())
    monkeypatch.setattr(checker, "GATHER_S", 0.01)
    monkeypatch.setattr(Copier, "run", failing)
    monkeypatch.setattr(site.store, "requests", Holding(part(0, 1), ended))
    with pytest.raises(NoSpaceError, match=r"^out of space$"):
        site.stream(
            plan_safetensors, source=replace(site.source(), max_connections=1), reshard=reshard
        )
    assert ended.is_set()
    assert not (site.directory / part(1, 2)).exists()


def test_a_folder_that_is_taken_is_told_before_anything_is_fetched(site_of) -> None:
    site = site_of("raw")
    site.destination.mkdir()
    (site.destination / "model.safetensors").touch()
    with pytest.raises(DestinationError, match="no reshard wrote it"):
        site.stream(plan_safetensors)
    assert not list(site.directory.glob("*.pt"))


def test_a_disk_for_one_copy_is_enough_with_reclaim_only(
    site_of, monkeypatch: pytest.MonkeyPatch
) -> None:
    site, notes = site_of("raw"), Notes()
    size = sum(path.stat().st_size for path in site.store.directory.iterdir())
    usage = shutil.disk_usage(site.root)
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: usage._replace(free=size))
    with pytest.raises(NoSpaceError, match="are still to come"):
        site.stream(plan_safetensors, progress=notes)
    assert "needs about" in notes.lines[0]
    assert not site.destination.exists()
    assert not list(site.directory.glob("*.pt"))
    site.stream(plan_safetensors, reclaim=True)
    assert (site.destination / "model.safetensors").exists()


def test_ctrl_c_ends_both(site_of) -> None:
    site = site_of("raw")
    size = (site.store.directory / part(0, 0)).stat().st_size

    def interrupt() -> None:
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        site.stream(
            plan_safetensors,
            source=replace(site.source(), max_rate=200_000, max_connections=1),
            progress=Interrupting(3 * size, interrupt),
        )
    names = {thread.name.rpartition("_")[0] for thread in threading.enumerate()}
    assert not names & {"reshard", "download", "headers"}
    site.stream(plan_safetensors)
    assert outputs(site.destination) == outputs(site.expected(plan_safetensors))


@pytest.mark.parametrize("reclaim", [False, True])
def test_without_ranges_the_reshard_follows(site_of, reclaim: bool) -> None:
    site, notes = site_of("raw"), Notes()
    site.store.inject(Fault(ignore_range=True), times=None)
    site.stream(plan_safetensors, reclaim=reclaim, progress=notes)
    assert (
        "does not answer ranges: the reshard has to wait for the whole download" in notes.lines[0]
    )
    assert outputs(site.destination) == outputs(site.expected(plan_safetensors))


def test_a_tokenizer_that_lies_there_goes_along(site_of) -> None:
    site = site_of("raw")
    for folder in (site.directory, site.root / "plain"):
        folder.mkdir()
        (folder / "gpt2-vocab.json").write_text("{}")
        (folder / "gpt2-merges.txt").write_text("#version: 0.2\n")
    site.stream(plan_safetensors)
    assert (site.destination / "vocab.json").read_text() == "{}"
    assert outputs(site.destination) == outputs(site.expected(plan_safetensors))


@pytest.mark.slow
def test_shards_of_padding_alone_are_not_fetched_to_be_deleted(site_of) -> None:
    site = site_of("raw, shards of padding alone")
    streamed = site.stream(plan_safetensors, reclaim=True)
    read = {Path(path).name for path in recorded(site)["sources"]}
    assert streamed.report is not None
    assert set(streamed.report.fetched) == read < set(site.manifest)
    assert not list(site.directory.glob("*.pt"))
    assert outputs(site.destination) == outputs(site.expected(plan_safetensors))
