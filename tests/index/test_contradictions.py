"""cfg against tensors, cfg against cfg, file against file."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from unshard.architectures.opt import KNOWN_MODELS
from unshard.errors import CheckpointError
from unshard.index.build import open_checkpoint
from unshard.index.checkpoint import Checkpoint
from unshard.testing.layouts import LAYOUTS
from unshard.testing.tiny_checkpoint import write_tiny_checkpoint
from unshard.testing.tiny_metaseq import MetaseqForm
from unshard.testing.tiny_model import TINY, Array
from unshard.testing.tiny_parts import write_tiny_parts

ReadModel = Callable[[Checkpoint], dict[str, Array]]
Edit = Callable[[Path, Callable[[dict[str, Any]], None]], None]


def set_argument(content: dict[str, Any], field: str, value: object) -> None:
    content["cfg"]["model"].state[field] = value


class TestContradictions:
    """cfg against tensors, cfg against cfg, file against file."""

    @pytest.mark.parametrize(
        ("field", "value"),
        [("decoder_layers", 12), ("decoder_embed_dim", 32), ("decoder_ffn_embed_dim", 64)],
    )
    @pytest.mark.parametrize("layout", ["raw, one rank", "one file"])
    def test_another_models_cfg(
        self, layout: str, field: str, value: int, tmp_path: Path, edit: Edit
    ) -> None:
        LAYOUTS[layout](tmp_path)
        [path] = tmp_path.iterdir()
        edit(path, lambda content: set_argument(content, field, value))
        with pytest.raises(CheckpointError, match=f"cfg says {field} is {value}, but"):
            open_checkpoint(path)

    @pytest.mark.parametrize(
        ("field", "value"), [("max_target_positions", 4096), ("decoder_input_dim", 512)]
    )
    def test_what_tensors_say_better_is_noted(
        self, field: str, value: int, tmp_path: Path, edit: Edit
    ) -> None:
        LAYOUTS["one file"](tmp_path)
        edit(tmp_path / "reshard.pt", lambda content: set_argument(content, field, value))
        checkpoint = open_checkpoint(tmp_path)
        assert checkpoint.config == TINY
        assert any(f"cfg says {field} is {value}" in said for said in checkpoint.layout.evidence)

    def test_parts_whose_heads_differ(self, tmp_path: Path, edit: Edit) -> None:
        write_tiny_parts(tmp_path)
        path = tmp_path / "reshard-model_part-1.pt"
        edit(path, lambda content: set_argument(content, "decoder_attention_heads", 8))
        with pytest.raises(
            CheckpointError, match=r"part-1\.pt: cfg says .*heads is 8, but .*says 4"
        ):
            open_checkpoint(tmp_path)

    def test_a_part_that_says_nothing_contradicts_nobody(self, tmp_path: Path, edit: Edit) -> None:
        write_tiny_parts(tmp_path)
        edit(tmp_path / "reshard-model_part-0.pt", lambda content: content.pop("cfg"))
        assert open_checkpoint(tmp_path).config == TINY

    def test_heads_that_nobody_knows(self, tmp_path: Path) -> None:
        write_tiny_parts(tmp_path, form=MetaseqForm(arguments="absent"))
        with pytest.raises(CheckpointError, match="number of attention heads is unknown"):
            open_checkpoint(tmp_path)

    def test_heads_by_the_table(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(KNOWN_MODELS, "OPT-tiny", TINY)
        write_tiny_parts(tmp_path, form=MetaseqForm(arguments="absent"))
        checkpoint = open_checkpoint(tmp_path)
        assert checkpoint.config == TINY
        assert any("no cfg gives the number of heads" in x for x in checkpoint.layout.evidence)

    def test_a_raw_part_beside_a_consolidated_one(self, tmp_path: Path) -> None:
        write_tiny_parts(tmp_path)
        write_tiny_checkpoint(tmp_path / "raw", fsdp_size=1, name="reshard-model_part-{part}.pt")
        shutil.copy(tmp_path / "raw" / "reshard-model_part-1.pt", tmp_path)
        with pytest.raises(CheckpointError, match=r"part-1\.pt: holds flat parameters, unlike"):
            open_checkpoint(tmp_path)

    def test_whole_tensors_in_several_shards(self, tmp_path: Path) -> None:
        write_tiny_parts(tmp_path, tp_size=1, name="a-shard0.pt")
        shutil.copy(tmp_path / "a-shard0.pt", tmp_path / "a-shard1.pt")
        with pytest.raises(CheckpointError, match="holds whole tensors, yet there are 2 FSDP"):
            open_checkpoint(tmp_path)

    def test_more_parts_than_the_tensors_are_split_over(self, tmp_path: Path) -> None:
        write_tiny_parts(tmp_path, tp_size=1)
        path = tmp_path / "reshard-model_part-0.pt"
        shutil.copy(path, tmp_path / "reshard-model_part-1.pt")
        with pytest.raises(CheckpointError, match="split over 1 tensor-parallel parts, but 2"):
            open_checkpoint(tmp_path)

    @pytest.mark.parametrize(
        "field", ["disable_bias", "disable_affine_ln", "no_decoder_final_norm"]
    )
    def test_a_model_that_is_no_opt(self, field: str, tmp_path: Path, edit: Edit) -> None:
        LAYOUTS["one file"](tmp_path)
        edit(tmp_path / "reshard.pt", lambda content: set_argument(content, field, True))
        with pytest.raises(CheckpointError, match=f"{field} is True"):
            open_checkpoint(tmp_path)
