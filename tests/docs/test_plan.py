"""docs/plan.md: its commands run, its fields are there, its figures are the program's."""

from __future__ import annotations

import json
import re
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from unshard.cli.main import main
from unshard.cli.plan_report import report_lines
from unshard.index.checkpoint import Checkpoint
from unshard.library.forecast import forecast, forecast_link
from unshard.library.machines import MACHINES, THIS_MACHINE, Machine
from unshard.library.planning import Cost, Disk, Planned
from unshard.releases import OPT_175B, PublicRelease
from unshard.testing.object_store import FakeObjectStore

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/plan.md").read_text()
DEMO_MODEL = ROOT / "src/unshard/demo_model"
NOW = datetime(2026, 1, 1, tzinfo=UTC)


def test_its_commands_run_and_give_its_fields(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """On the bundled model."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(DEMO_MODEL, "opt-175b")
    shutil.copy(DEMO_MODEL / "md5sum_shards.csv", "opt175b_md5sum_shards.csv")
    commands = re.findall(r"^\$ unshard (.*)$", PAGE, re.MULTILINE)
    assert len(commands) == 4
    with (
        FakeObjectStore(DEMO_MODEL) as store,
        FakeObjectStore(DEMO_MODEL, is_public=True) as public,
    ):
        monkeypatch.setenv("UNSHARD_URL", store.presigned_url())
        release = PublicRelease(public.presigned_url("checkpoint_last-model_part-0-shard*.pt"), 5)
        monkeypatch.setattr("unshard.releases.PUBLIC", {"opt-66b": release})
        for line in commands:
            assert main(line.partition(" > ")[0].split()) == 0
        outputs = capsys.readouterr().out
        capsys.readouterr()
        manifest = ["--manifest", "opt175b_md5sum_shards.csv"]
        assert main(["plan", *manifest, "--measure", "--json"]) == 0
    assert outputs.count("this plan took") == 2
    _check_fields(json.loads(capsys.readouterr().out))


def _check_fields(planned: dict[str, object]) -> None:
    """Every field of the output is in the table, and the other way round."""
    rows = re.findall(r"^\| (`.*`) \| (.*) \|$", PAGE.partition("## For programs")[2], re.MULTILINE)
    told = {name for row in rows for name in re.findall(r"`([a-z_.0-9]+)`", " ".join(row))}
    found = set(planned) | {f"forecast.{name}" for name in planned["forecast"]} - {"forecast"}
    for nested in (planned["disk"], planned["measured"], planned["cost"]):
        found |= set(nested)
    for nested in planned["forecast"].values():
        each = nested[0] if isinstance(nested, list) else nested
        found |= set(each) if isinstance(each, dict) else set()
    assert told - {"null"} == found - {"forecast"}


@pytest.mark.slow
def test_what_it_shows_of_opt_175b(opt_175b: tuple[Checkpoint, int]) -> None:
    checkpoint, file_bytes = opt_175b
    sizes = dict.fromkeys(OPT_175B.file_names, file_bytes)
    link = forecast_link(sum(sizes.values()), 3e6, NOW + timedelta(hours=22), NOW)
    machines = (*MACHINES, Machine(THIS_MACHINE, 1, 64 * 10**9, is_cpu=True))
    found = forecast(
        sizes,
        checkpoint,
        link,
        tp_size=None,
        num_cores=16,
        free_memory_bytes=60 * 10**9,
        machines=machines,
    )
    planned = Planned(
        "https://host/weights/stubbed.pt?…", found, Disk(".", 10**12), None, Cost(994, 328_672), ()
    )
    [shown] = re.findall(r"```text\n(.*?)```", PAGE, re.DOTALL)
    assert shown == "".join(f"{line}\n" for line in report_lines(planned))
    assert max(map(len, shown.splitlines())) <= 80


def test_links_exist() -> None:
    for link in re.findall(r"\]\(([^)#]+)\)", PAGE):
        assert (ROOT / "docs" / link).exists(), link
