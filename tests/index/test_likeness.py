"""What one file and the names of all say is what all files say."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from unshard.errors import CheckpointError
from unshard.index.build import open_checkpoint
from unshard.index.likeness import first_name, open_by_first_file
from unshard.plan.metaseq_target import plan_metaseq
from unshard.plan.safetensors_target import plan_safetensors
from unshard.testing.layouts import LAYOUTS

METASEQ = [name for name in LAYOUTS if not name.startswith(("safetensors", "bin"))]


def names_of(folder: Path) -> list[str]:
    return sorted((path.name for path in folder.iterdir()), reverse=True)


@pytest.mark.parametrize("layout", METASEQ)
def test_it_is_the_checkpoint_of_all_files(layout: str, tmp_path: Path) -> None:
    LAYOUTS[layout](tmp_path / "all")
    names = names_of(tmp_path / "all")
    first = first_name("it", names)
    (tmp_path / "one").mkdir()
    shutil.copy(tmp_path / "all" / first, tmp_path / "one" / first)
    whole = open_checkpoint(tmp_path / "all")
    alike = open_by_first_file("it", tmp_path / "one", names)
    assert alike.config == whole.config
    assert alike.index.ledger == whole.index.ledger
    assert [(t.name, t.dtype, t.shape) for t in alike.index.values()] == [
        (t.name, t.dtype, t.shape) for t in whole.index.values()
    ]
    assert [path.name for path in alike.layout.files] == [p.name for p in whole.layout.files]
    for plan in (plan_safetensors, plan_metaseq, lambda each: plan_metaseq(each, 1)):
        assert plan(alike).num_bytes == plan(whole).num_bytes


def test_the_first_rank_speaks_for_all() -> None:
    names = [f"a-model_part-{part}-shard{rank}.pt" for part in (1, 0) for rank in (10, 2, 0, 1)]
    with pytest.raises(CheckpointError, match="missing a-model_part-0-shard3"):
        first_name("it", names)
    assert first_name("it", [name for name in names if "10" not in name]) == (
        "a-model_part-0-shard0.pt"
    )
