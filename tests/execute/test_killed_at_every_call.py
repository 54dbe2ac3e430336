"""Killed at any call that changes the disk, the same command goes on and loses nothing."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from unshard.testing.tiny_checkpoint import TINY, write_tiny_checkpoint

KILLED = """
import os, shutil, sys
from itertools import count
from pathlib import Path
from unshard.execute import finishing
from unshard.execute.reclaim import unfinished
from unshard.execute.run import run_plan
from unshard.index.build import open_checkpoint
from unshard.plan.metaseq_target import plan_metaseq
from unshard.plan.safetensors_target import plan_safetensors

CALLS = "open pwrite pwritev ftruncate posix_fallocate fsync fdatasync replace rename unlink"
finishing.BATCH_BYTES = finishing.RECLAIM_BATCH_BYTES = 1 << 12
target, reclaims, root = sys.argv[1], sys.argv[2] == "reclaim", Path(sys.argv[3])
plan_of = plan_safetensors if target == "hf" else lambda it: plan_metaseq(it, 1)


def die_at(moment):
    numbers = count()

    def dying(call):
        def called(*arguments, **named):
            if next(numbers) == moment:
                os._exit(9)
            return call(*arguments, **named)

        return called

    for name in CALLS.split():
        setattr(os, name, dying(getattr(os, name)))


def reshard(raw, out):
    left = unfinished(out) if reclaims and out.exists() else None
    if left is not None:
        run_plan(left.plan, out, workers=1, reclaim=left.files)
        return
    checkpoint = open_checkpoint(raw)
    files = checkpoint.layout.files if reclaims else ()
    run_plan(plan_of(checkpoint), out, workers=1, reclaim=files)


def ended(raw, out, moment=-1):
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    try:
        die_at(moment)
        reshard(raw, out)
        os._exit(0)
    except BaseException as error:
        print(moment, repr(error), file=sys.stderr, flush=True)
        os._exit(1)


def contents(folder):
    paths = [path for path in folder.iterdir() if path.name != "unshard.json"]
    return {path.name: path.read_bytes() for path in paths}


def moments():
    for moment in count():
        raw, out = root / f"raw-{moment}", root / f"out-{moment}"
        shutil.copytree(root / "raw", raw)
        code = ended(raw, out, moment)
        if code == 0:
            return moment
        assert code == 9, (moment, code)
        was_over = not list(raw.glob("*.pt")) and reclaims and unfinished(out) is None
        if not was_over:
            assert ended(raw, out) == 0, moment
        assert contents(out) == once, (moment, sorted(contents(out)))
        assert (out / "unshard.json").stat().st_size
        shutil.rmtree(raw)
        shutil.rmtree(out)


shutil.copytree(root / "raw", root / "once-raw")
assert ended(root / "once-raw", root / "once") == 0
once = contents(root / "once")
print(moments())
"""


@pytest.mark.slow
@pytest.mark.parametrize("target", ["hf", "metaseq"])
@pytest.mark.parametrize("kind", ["plain", "reclaim"])
def test_every_call_that_changes_the_disk(tmp_path: Path, target: str, kind: str) -> None:
    write_tiny_checkpoint(tmp_path / "raw", TINY, tp_size=2, fsdp_size=2)
    command = [sys.executable, "-c", KILLED, target, kind, str(tmp_path)]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    assert int(ended.stdout) > 40
