"""A reshard on a Ray cluster is the reshard: same bytes, same errors, and it goes on."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from unshard.errors import UnshardError, UsageError, WorkerLostError
from unshard.execute import finishing, node_check
from unshard.execute.blocks import Buffers
from unshard.execute.copy import Copier, TaskResult
from unshard.execute.node_check import Expected
from unshard.execute.run import Executor, run_plan
from unshard.execute.task_log import TaskLog
from unshard.execute.tasks import CopyTask
from unshard.index.build import open_checkpoint
from unshard.plan.copy_plan import CopyPlan
from unshard.plan.metaseq_target import plan_metaseq
from unshard.plan.safetensors_target import plan_safetensors
from unshard.progress import Silent
from unshard.testing.tiny_checkpoint import Array

pytestmark = pytest.mark.ray

Raw = tuple[Path, dict[str, Array]]


@pytest.fixture(scope="module", autouse=True)
def connected(cluster: str) -> Iterator[None]:
    """One connection for all tests here: a run keeps the one that it finds."""
    import ray

    ray.init(address=cluster, log_to_driver=False)
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    yield
    assert ray.is_initialized()
    ray.shutdown()


def on_ray(workers: int = 2) -> Executor:
    from unshard.execute import ray_executor

    return ray_executor.on_ray(workers)


@dataclass(frozen=True)
class Sabotaged(Copier):
    """Does something on the worker before each task."""

    before: Callable[[CopyTask], None] = lambda _: None

    def run(self, task: CopyTask, buffers: Buffers) -> TaskResult:
        self.before(task)
        return super().run(task, buffers)


def sabotaged(before: Callable[[CopyTask], None], workers: int = 2) -> Executor:
    def run(copier: Copier, tasks: Sequence[CopyTask]) -> Generator[TaskResult]:
        yield from on_ray(workers)(Sabotaged(**vars(copier), before=before), tasks)

    return run


@pytest.fixture
def one_task_a_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    from unshard.execute import ray_executor

    monkeypatch.setattr(ray_executor, "BATCH_BYTES", 0)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


PLANS: dict[str, Callable[[Path], CopyPlan]] = {
    "safetensors": lambda raw: plan_safetensors(open_checkpoint(raw), 1000),
    "metaseq": lambda raw: plan_metaseq(open_checkpoint(raw)),
    "metaseq, 1 part": lambda raw: plan_metaseq(open_checkpoint(raw), 1),
    "metaseq, 4 parts": lambda raw: plan_metaseq(open_checkpoint(raw), 4),
}


@pytest.mark.parametrize("name", PLANS)
def test_same_bytes_as_threads(raw: Raw, tmp_path: Path, name: str) -> None:
    plan = PLANS[name](raw[0])
    paths = run_plan(plan, tmp_path / "ray", executor=on_ray())
    assert [path.name for path in paths] == [file.name for file in plan.files]
    run_plan(plan, tmp_path / "threads")
    assert contents(tmp_path / "ray") == contents(tmp_path / "threads")


@pytest.mark.usefixtures("one_task_a_batch")
def test_both_nodes_take_part_in_relative_folders(
    raw: Raw, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Workers do not start where the driver does."""
    seen = tmp_path / "seen"
    seen.mkdir()

    def note(task: CopyTask) -> None:
        import ray

        (seen / ray.get_runtime_context().get_node_id()).touch()
        time.sleep(0.02)

    monkeypatch.chdir(tmp_path)
    plan = plan_safetensors(open_checkpoint("raw"))
    run_plan(plan, "ray", executor=sabotaged(note))
    run_plan(plan, "threads")
    assert contents(tmp_path / "ray") == contents(tmp_path / "threads")
    assert len(list(seen.iterdir())) == 2


@pytest.mark.usefixtures("one_task_a_batch")
def test_killed_workers_cost_nothing(raw: Raw, tmp_path: Path) -> None:
    """Each of the first tasks kills its process after it has written, and once more."""
    kills = tmp_path / "kills"
    kills.mkdir()

    def die(task: CopyTask) -> None:
        for attempt in range(2):
            mark = kills / f"{task.number}-{attempt}"
            if task.number in (0, 5) and not mark.exists():
                mark.touch()
                os.kill(os.getpid(), signal.SIGKILL)

    plan = PLANS["metaseq, 4 parts"](raw[0])
    run_plan(plan, tmp_path / "ray", executor=sabotaged(die))
    run_plan(plan, tmp_path / "threads")
    assert len(list(kills.iterdir())) == 4
    assert contents(tmp_path / "ray") == contents(tmp_path / "threads")


@pytest.mark.usefixtures("one_task_a_batch")
def test_a_task_that_always_kills_ends_the_run_and_the_next_goes_on(
    raw: Raw, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from unshard.execute import ray_executor

    monkeypatch.setattr(ray_executor, "MAX_RETRIES", 1)
    monkeypatch.setattr(finishing, "BATCH_BYTES", 1)
    ran = tmp_path / "ran"
    ran.mkdir()

    def die(task: CopyTask) -> None:
        if task.number == 20:
            os.kill(os.getpid(), signal.SIGKILL)

    def note(task: CopyTask) -> None:
        (ran / str(task.number)).touch()

    plan, out = PLANS["metaseq"](raw[0]), tmp_path / "ray"
    with pytest.raises(WorkerLostError, match="lost a worker too often") as caught:
        run_plan(plan, out, executor=sabotaged(die))
    assert "goes on from here" in str(caught.value.hint)
    assert "\n" not in caught.value.message
    done = set(TaskLog(out).read())
    assert len(done) > 10
    run_plan(plan, out, executor=sabotaged(note))
    assert not done & {int(path.name) for path in ran.iterdir()}
    run_plan(plan, tmp_path / "threads")
    assert contents(out) == contents(tmp_path / "threads")


def test_reclaim(raw: Raw, tmp_path: Path) -> None:
    checkpoint = open_checkpoint(raw[0])
    plan = plan_safetensors(checkpoint)
    run_plan(plan, tmp_path / "kept")
    run_plan(plan, tmp_path / "ray", reclaim=checkpoint.layout.files, executor=on_ray())
    assert contents(tmp_path / "ray") == contents(tmp_path / "kept")
    assert not any(path.exists() for path in checkpoint.layout.files)


def damaged_copy(plan: CopyPlan) -> None:
    replica = plan.sources["decoder.layers.0.fc2.bias"].replicas[0].ranges[0]
    with Path(replica.path).open("r+b") as file:
        file.seek(replica.offset)
        file.write(b"\xff\xff")


def truncated(plan: CopyPlan) -> None:
    """Inside the last tensor of a file, so that one task fails and no other."""
    path = plan.source_paths()[4]
    pieces = [
        piece
        for tensor in plan.sources.values()
        for chunk in tensor.chunks
        for piece in chunk.ref.ranges
        if piece.path == path
    ]
    os.truncate(path, max(piece.offset for piece in pieces) + 1)


@pytest.mark.parametrize("damage", [damaged_copy, truncated])
def test_errors_of_tasks_arrive_whole(
    raw: Raw, tmp_path: Path, damage: Callable[[CopyPlan], None]
) -> None:
    plan = PLANS["metaseq"](raw[0])
    damage(plan)
    caught = []
    for name, executor in (("ray", on_ray(1)), ("threads", None)):
        with pytest.raises(UnshardError) as info:
            run_plan(plan, tmp_path / name, executor=executor, workers=1)
        caught.append(info.value)
    ours, expected = caught
    assert type(ours) is type(expected)
    assert vars(ours) == vars(expected)
    assert not list((tmp_path / "ray").glob("[!.]*.pt"))


def test_a_fault_of_a_worker_is_no_silence(raw: Raw, tmp_path: Path) -> None:
    def fail(task: CopyTask) -> None:
        raise ZeroDivisionError("a bug")

    with pytest.raises(ZeroDivisionError, match="a bug"):
        run_plan(PLANS["metaseq"](raw[0]), tmp_path / "ray", executor=sabotaged(fail))


@pytest.mark.usefixtures("one_task_a_batch")
def test_interrupted_it_returns_when_nothing_runs_any_more(raw: Raw, tmp_path: Path) -> None:
    class Interrupting(Silent):
        def advance(self, num_bytes: int) -> None:
            if num_bytes:
                raise KeyboardInterrupt

    events = tmp_path / "events"
    events.mkdir()

    def linger(task: CopyTask) -> None:
        (events / f"{task.number} began").touch()
        try:
            for _ in range(60_000):  # the first, until another one is at work too
                time.sleep(0.01)
                if task.number == 0 and len(list(events.iterdir())) > 1:
                    break
        finally:
            time.sleep(0.5)
            (events / f"{task.number} ended").touch()

    plan = PLANS["metaseq"](raw[0])
    with pytest.raises(KeyboardInterrupt):
        run_plan(plan, tmp_path / "ray", executor=sabotaged(linger), progress=Interrupting())
    found = {path.name for path in events.iterdir()}
    assert len({name for name in found if "began" in name}) > 1
    assert {name.replace("began", "ended") for name in found} <= found
    run_plan(plan, tmp_path / "ray", executor=on_ray())
    run_plan(plan, tmp_path / "threads")
    assert contents(tmp_path / "ray") == contents(tmp_path / "threads")


def test_another_version_is_refused(
    raw: Raw, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(node_check, "__version__", "9.9")
    with pytest.raises(UsageError, match=r"\(127\.0\.0\.[23]\) has unshard [\d.]+, not 9\.9"):
        run_plan(PLANS["metaseq"](raw[0]), tmp_path / "ray", executor=on_ray())


def test_a_node_that_does_not_see_the_files_is_named(tmp_path: Path) -> None:
    from unshard.execute.ray_cluster import check_nodes

    expected = Expected(node_check.__version__, "/", {str(tmp_path / "a"): (1, 0)}, {})
    with pytest.raises(UsageError, match=r"\(127\.0\.0\.[23]\) does not see .*/a \(No such file"):
        check_nodes(expected)
