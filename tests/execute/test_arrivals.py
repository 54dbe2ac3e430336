"""A reshard may begin before its source files are there, and writes the same bytes."""

from __future__ import annotations

import shutil
from concurrent.futures import CancelledError, ThreadPoolExecutor
from pathlib import Path

import pytest
from stopping import contents

from unshard.execute.arrivals import Arrivals
from unshard.execute.journal import recorded_fingerprint
from unshard.execute.run import run_plan
from unshard.execute.task_log import ArrivalLog
from unshard.index.build import open_checkpoint
from unshard.plan.copy_plan import CopyPlan
from unshard.plan.metaseq_target import plan_metaseq
from unshard.plan.safetensors_target import plan_safetensors
from unshard.testing.layouts import LAYOUTS


def outputs(folder: Path) -> dict[str, bytes]:
    return {name: raw for name, raw in contents(folder).items() if not name.endswith(".json")}


@pytest.mark.parametrize("target", [1, 2, 4, "safetensors"])
@pytest.mark.parametrize("reclaim", [False, True])
def test_files_that_arrive_one_by_one(tmp_path: Path, target: int | str, reclaim: bool) -> None:
    LAYOUTS["raw"](tmp_path / "src")
    checkpoint = open_checkpoint(tmp_path / "src")
    plan = (
        plan_safetensors(checkpoint)
        if target == "safetensors"
        else plan_metaseq(checkpoint, target)
    )
    run_plan(plan, tmp_path / "expected")
    files = checkpoint.layout.files
    (tmp_path / "src").rename(tmp_path / "away")
    (tmp_path / "src").mkdir()
    arrivals = Arrivals()
    _stop_in_the_middle(plan, tmp_path, arrivals, files, reclaim)
    again = Arrivals()
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(
            run_plan, plan, tmp_path / "out", reclaim=files if reclaim else (), arrivals=again
        )
        for path in reversed(files):
            if (tmp_path / "away" / path.name).exists():
                shutil.move(tmp_path / "away" / path.name, path)
                again.arrive(str(path))
        running.result()
    assert outputs(tmp_path / "out") == outputs(tmp_path / "expected")
    assert recorded_fingerprint(tmp_path / "out") == recorded_fingerprint(tmp_path / "expected")
    assert again.needed.result() <= {str(path) for path in files[2:]}
    assert [path.exists() for path in files] == [not reclaim] * len(files)


def _stop_in_the_middle(
    plan: CopyPlan, folder: Path, arrivals: Arrivals, files: tuple[Path, ...], reclaim: bool
) -> None:
    taken: list[str] = []
    take = arrivals.take

    def stop_at_the_third() -> list[str]:
        if len(taken) == 2:
            arrivals.stop()
            return take()
        path = files[len(taken)]
        shutil.move(folder / "away" / path.name, path)
        arrivals.arrive(str(path))
        taken.extend(new := take())
        return new

    arrivals.take = stop_at_the_third
    with pytest.raises(CancelledError):
        run_plan(plan, folder / "out", reclaim=files if reclaim else (), arrivals=arrivals)
    assert set(ArrivalLog(folder / "out").read()) == set(taken)
    assert len(taken) == 2
