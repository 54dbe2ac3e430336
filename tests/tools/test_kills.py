"""The campaign of kills runs, and notices when a law is broken."""

from __future__ import annotations

import json
import multiprocessing
import random
import shutil
import sys
from collections.abc import Iterator
from multiprocessing.context import ForkServerProcess
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2]))  # the tools are no part of the package

from tools.kills import campaign as driver
from tools.kills.__main__ import PRELOADED
from tools.kills.campaign import Campaign, WrongError
from tools.kills.commands import CASES, Case, World, new_world

from unshard.library import resharded

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def campaign(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Campaign]:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(PRELOADED))
    world = new_world(tmp_path_factory.mktemp("kills"))
    yield Campaign(world, context)
    world.store.close()


@pytest.mark.parametrize("name", CASES)
def test_every_kind_holds(campaign: Campaign, name: str) -> None:
    before = campaign.num_kills
    for seed in range(2):
        campaign.run(name, seed)
    assert campaign.num_kills > before


def broken(campaign: Campaign, monkeypatch: pytest.MonkeyPatch, case: Case) -> str:
    """What the driver says of a command that breaks a law."""
    monkeypatch.setitem(CASES, "planted", lambda _world, _random: case)
    with pytest.raises(WrongError) as error:
        campaign.run("planted", 1)
    return str(error.value)


def reshard(world: World, *options: str, source: str = "raw", marked: str = "") -> Case:
    """To safetensors; a file of the name `marked` differs from time to time."""

    def prepare(folder: Path, chance: random.Random) -> None:
        shutil.copytree(world.raw, folder / source)
        if marked:
            (folder / marked).write_bytes(chance.randbytes(8))

    return Case(("reshard", f"{{}}/{source}", "{}/out", "--to", "safetensors", *options), prepare)


def test_other_bytes_are_noticed(campaign: Campaign, monkeypatch: pytest.MonkeyPatch) -> None:
    case = reshard(campaign.world, marked="odd")
    assert "with other bytes: ['odd']" in broken(campaign, monkeypatch, case)


def test_files_too_many_and_too_few_are_noticed(
    campaign: Campaign, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = iter(("first", "second"))
    case = reshard(campaign.world)
    prepare = case.prepare

    def odd(folder: Path, chance: random.Random) -> None:
        prepare(folder, chance)
        (folder / next(names)).touch()

    told = broken(campaign, monkeypatch, Case((*case.arguments, "--workers", "1"), odd))
    assert "files too many: ['second']; too few: ['first']" in told


def test_a_command_that_fails_is_noticed(
    campaign: Campaign, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "exits with 2" in broken(campaign, monkeypatch, Case(("inspect", "{}/nothing")))


def test_a_secret_is_noticed(campaign: Campaign, monkeypatch: pytest.MonkeyPatch) -> None:
    case = reshard(campaign.world, source="Signature=x")
    assert "exits with 0 and says" in broken(campaign, monkeypatch, case)


def test_a_command_that_hangs_is_noticed(
    campaign: Campaign, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(driver, "LATEST_S", 0.2)
    options = ("--manifest", str(campaign.world.manifest), "--max-rate", "64KB")
    case = Case(("download", "{}/raw", *options))
    assert broken(campaign, monkeypatch, case) == "it hangs"


class Forgetful(Campaign):
    """Takes away what a repeated command knows itself by."""

    def _start(self, case: Case, folder: Path) -> ForkServerProcess:
        for note in (folder / "raw").glob(f"{resharded.STEM}*"):
            note.unlink()
        return super()._start(case, folder)


def test_a_finished_command_that_cannot_be_repeated_is_noticed(
    campaign: Campaign, monkeypatch: pytest.MonkeyPatch
) -> None:
    forgetful = Forgetful(campaign.world, campaign.context)
    told = broken(forgetful, monkeypatch, reshard(campaign.world, "--reclaim"))
    assert "exits with 2" in told
    assert "no checkpoint in this folder" in told


def test_bytes_fetched_twice_are_noticed(campaign: Campaign, tmp_path: Path) -> None:
    folder, world = tmp_path / "case", campaign.world
    report = {"fetched": ["a.pt"], "received_bytes": world.num_bytes}
    folder.with_suffix(".log").write_text(f"begun\n{json.dumps(report)}\n")
    campaign._check_fetched(folder, held=0)
    with pytest.raises(WrongError, match="and it fetched"):
        campaign._check_fetched(folder, held=world.num_bytes)
