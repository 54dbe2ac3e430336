"""A reshard beside its download writes what it would write after it, whatever happens."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from unshard.download import Link, PresignedTemplate, RetryPolicy, download
from unshard.errors import CheckpointError, DigestError
from unshard.execute.journal import recorded_fingerprint
from unshard.execute.reclaim import unfinished
from unshard.execute.run import run_plan
from unshard.index.build import open_checkpoint
from unshard.index.checkpoint import Checkpoint
from unshard.library import stand_ins
from unshard.library.streamed_reshard import HEADS, Source, Streamed, streamed_reshard
from unshard.manifest import Digest, Manifest
from unshard.plan.copy_plan import CopyPlan
from unshard.plan.metaseq_target import plan_metaseq
from unshard.plan.plan_json import plan_digest
from unshard.plan.safetensors_target import plan_safetensors
from unshard.progress import Progress, Silent
from unshard.testing.layouts import LAYOUTS
from unshard.testing.object_store import FakeObjectStore, Fault

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
        files: Manifest | list[str] | None = None,
        progress: Progress | None = None,
    ) -> Streamed:
        return streamed_reshard(
            self.source(files),
            self.destination,
            plan_of,
            partial(run_plan, workers=1),
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


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("reclaim", [False, True])
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


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout(site_of, layout: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stand_ins, "HEAD_BYTES", 512)
    monkeypatch.setattr(stand_ins, "TAIL_BYTES", 64)
    site = site_of(layout)
    streamed = site.stream(plan_safetensors)
    plan = plan_safetensors(open_checkpoint(site.directory))
    assert plan_digest(streamed.plan) == plan_digest(plan)
    run_plan(plan, site.root / "expected", workers=1)
    assert outputs(site.destination) == outputs(site.root / "expected")
