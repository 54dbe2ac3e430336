"""The sparse checkpoint is one: it opens like a real one, and takes next to no disk."""

from __future__ import annotations

import runpy
from dataclasses import replace
from pathlib import Path

from unshard.index.build import open_checkpoint

PROGRAM = Path(__file__).parents[2] / "benchmarks" / "sparse_checkpoint.py"


def test_opens_as_what_it_says(tmp_path: Path) -> None:
    program = runpy.run_path(str(PROGRAM))
    config = replace(program["OPT_175B"], num_layers=2)
    program["write_sparse_checkpoint"](tmp_path, config, tp_size=2, fsdp_size=3)
    checkpoint = open_checkpoint(tmp_path)
    assert checkpoint.config == config
    assert (checkpoint.layout.kind, checkpoint.layout.tp_size, checkpoint.layout.fsdp_size) == (
        "metaseq-raw",
        2,
        3,
    )
    stats = [path.stat() for path in tmp_path.iterdir()]
    assert sum(stat.st_size for stat in stats) > 8e9
    assert sum(stat.st_blocks * 512 for stat in stats) < 2e6
