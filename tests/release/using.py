"""A user's file: mypy and pyright check it, in their strictest modes, against the wheel."""

from __future__ import annotations

from pathlib import Path

import unshard
from unshard.errors import UnshardError
from unshard.execute.fingerprint import fingerprint
from unshard.execute.run import run_plan
from unshard.index.build import open_checkpoint
from unshard.plan.safetensors_target import plan_safetensors


def rows(source: Path, name: str) -> tuple[int, ...]:
    weights = unshard.open(source)
    tensor: unshard.LazyTensor = weights[name]
    return tensor[2:5].shape


def reshard(source: Path, destination: Path) -> str:
    checkpoint = open_checkpoint(source)
    try:
        run_plan(plan_safetensors(checkpoint), destination)
    except UnshardError as error:
        return f"{error} ({error.hint})"
    return fingerprint(checkpoint.index).model
