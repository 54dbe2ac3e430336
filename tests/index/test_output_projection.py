"""The output projection: tied, copied or untied, judged from what is stored and said."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from unshard.errors import CheckpointError
from unshard.index.build import open_checkpoint
from unshard.index.checkpoint import Checkpoint
from unshard.testing.layouts import LAYOUTS
from unshard.testing.tiny_metaseq import MetaseqForm
from unshard.testing.tiny_model import Array
from unshard.testing.tiny_parts import write_tiny_parts

ReadModel = Callable[[Checkpoint], dict[str, Array]]
Edit = Callable[[Path, Callable[[dict[str, Any]], None]], None]


def set_argument(content: dict[str, Any], field: str, value: object) -> None:
    content["cfg"]["model"].state[field] = value


class TestOutputProjection:
    """Tied, copied or untied: judged from what is stored and what is said, in that order."""

    @pytest.fixture
    def path(self, tmp_path: Path) -> Path:
        form = MetaseqForm(output_copy="copy")
        write_tiny_parts(tmp_path, tp_size=1, form=form)
        return tmp_path / "reshard-model_part-0.pt"

    @staticmethod
    def silent(content: dict[str, Any]) -> None:
        del content["shard_metadata"]
        del content["cfg"]["model"].state["share_decoder_input_output_embed"]

    def test_a_copy_is_compared(self, path: Path) -> None:
        embedding = open_checkpoint(path).index["decoder.embed_tokens.weight"]
        assert len(embedding.replicas) == 1
        assert embedding.replicas[0].ranges != embedding.chunks[0].ref.ranges

    def test_copies_of_all_parts_are_one_replica(self, tmp_path: Path) -> None:
        LAYOUTS["parts, output projection copied"](tmp_path)
        [chunk] = open_checkpoint(tmp_path).index["decoder.embed_tokens.weight"].chunks
        assert chunk.sizes == (56, 16)

    def test_a_view_costs_nothing(self, tmp_path: Path) -> None:
        with_view, without = tmp_path / "view", tmp_path / "without"
        LAYOUTS["parts, output projection a view"](with_view)
        LAYOUTS["parts, a storage per unit"](without)
        ledgers = [open_checkpoint(folder).index.ledger for folder in (with_view, without)]
        assert ledgers[0] == ledgers[1]

    def test_nothing_says_that_it_is_a_copy(self, path: Path, edit: Edit) -> None:
        """Then it has weights of its own: nothing is lost, at worst a copy is kept."""
        edit(path, self.silent)
        checkpoint = open_checkpoint(path)
        assert not checkpoint.config.tied_embeddings
        assert any("nothing says it is a copy" in said for said in checkpoint.layout.evidence)

    def test_cfg_says_untied_and_it_is_missing(self, tmp_path: Path, edit: Edit) -> None:
        write_tiny_parts(tmp_path, tp_size=1, form=MetaseqForm(shard_metadata=False))
        path = tmp_path / "reshard-model_part-0.pt"
        edit(path, lambda content: set_argument(content, "share_decoder_input_output_embed", False))
        with pytest.raises(CheckpointError, match=r"output_projection\.weight is missing, and cfg"):
            open_checkpoint(path)

    def test_a_copy_of_another_shape(self, path: Path, edit: Edit) -> None:
        def other(content: dict[str, Any]) -> None:
            model = content["model"]
            model["decoder.output_projection.weight"] = model["decoder.embed_positions.weight"]

        edit(path, other)
        with pytest.raises(CheckpointError, match="no copy of the embedding"):
            open_checkpoint(path)

    def test_a_copy_in_some_parts_only(self, tmp_path: Path, edit: Edit) -> None:
        LAYOUTS["parts, output projection copied"](tmp_path)
        name = "decoder.output_projection.weight"
        edit(tmp_path / "reshard-model_part-1.pt", lambda content: content["model"].pop(name))
        with pytest.raises(CheckpointError, match="not in every part"):
            open_checkpoint(tmp_path)
