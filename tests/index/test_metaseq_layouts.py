"""metaseq's files as trainers, scripts and people leave them, and how they are recognised."""

from __future__ import annotations

import argparse
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

from unshard.architectures.opt import KNOWN_MODELS
from unshard.dtypes import FLOAT16 as FLOAT
from unshard.errors import CheckpointError, FormatError, UsageError
from unshard.index.build import open_checkpoint
from unshard.index.checkpoint import Checkpoint
from unshard.testing.layouts import LAYOUTS
from unshard.testing.tiny_arguments import model_arguments
from unshard.testing.tiny_checkpoint import write_tiny_checkpoint
from unshard.testing.tiny_metaseq import MetaseqForm
from unshard.testing.tiny_model import TINY, Array, tiny_model
from unshard.testing.tiny_parts import write_tiny_parts

ReadModel = Callable[[Checkpoint], dict[str, Array]]
Edit = Callable[[Path, Callable[[dict[str, Any]], None]], None]


def assert_holds(found: dict[str, Array], truth: dict[str, Array]) -> None:
    assert found.keys() == truth.keys()
    for name, values in truth.items():
        np.testing.assert_array_equal(found[name], values, err_msg=name)


@pytest.mark.parametrize(
    ("layout", "kind", "sentence"),
    [
        ("raw", "raw", "file names give 2 tensor-parallel parts x 3 FSDP shards"),
        ("raw", "raw", "the files hold flat parameters (flat_param_0, …), so they are raw"),
        ("raw", "raw", "shard_metadata gives names and shapes (3 FSDP units)"),
        ("raw", "raw", "qkv_proj is stored: K, V and Q are fused, in the order K, V, Q"),
        ("raw", "raw", "the output projection is tied: shared_param_info says so"),
        ("raw", "raw", "cfg gives 4 attention heads"),
        ("raw, K V Q separate", "raw", "k_proj, v_proj and q_proj are stored"),
        ("raw, one unit for everything", "raw", "(one FSDP unit for everything)"),
        ("raw, units of two layers", "raw", "layers are in blocks of 2"),
        ("flat, 2022", "raw", "shard_metadata is absent"),
        ("flat, 2022", "raw", "K, V and Q are fused because cfg's arch is"),
        ("flat, 2022", "raw", "(its 11 positions leave a vocabulary of 56)"),
        ("parts, shapes of other parts", "consolidated", "the files hold whole tensors by name"),
        ("parts, no shard_metadata", "consolidated", "the output projection is tied: it is not"),
        ("parts, output projection a view", "consolidated", "tied"),
        ("one file", "consolidated", "one tensor-parallel part (no -model_part-N) x one file"),
    ],
)
def test_the_layout_is_said_with_its_evidence(
    layout: str, kind: str, sentence: str, tmp_path: Path
) -> None:
    LAYOUTS[layout](tmp_path, replace(TINY, num_layers=4 if "blocks" in layout else 2))
    found = open_checkpoint(tmp_path).layout
    assert found.kind == f"metaseq-{kind}"
    assert any(sentence in said for said in found.evidence), found.evidence


def test_shards_of_padding_alone(tmp_path: Path, edit: Edit) -> None:
    """1136 elements over 61 shards are 19 each, so that the last has none; 1960 are 33 each."""
    LAYOUTS["raw, shards of padding alone"](tmp_path)
    paddings = []

    def look(content: dict[str, Any]) -> None:
        units = content["shard_metadata"]["param_metadata"]
        paddings.extend(unit["params"]["flat_param_0"]["padding"] for unit in units)

    edit(tmp_path / "checkpoint_last-model_part-0-shard60.pt", look)
    assert paddings == [19, 33, 33]
    assert open_checkpoint(tmp_path).layout.fsdp_size == 61


class TestNames:
    """Files are placed by the ranks in their names, whatever else is in them."""

    @pytest.mark.parametrize(
        "name",
        [
            "checkpoint_last-model_part-{part}-shard{shard}.pt",
            "checkpoint_1_4000.pt-model_part-{part}-shard{shard}.pt",
            "175b-v2-shard7-run3-model_part-{part}-shard{shard}.pt",
            "2-model_part-{part}-shard0{shard}.pt",
        ],
    )
    def test_other_numbers_mean_nothing(
        self, name: str, tmp_path: Path, read_model: ReadModel
    ) -> None:
        folder = tmp_path / "model_part-3-shard9" / "4"
        truth = write_tiny_checkpoint(folder, fsdp_size=12, name=name)
        checkpoint = open_checkpoint(folder)
        assert_holds(read_model(checkpoint), truth)
        numbers = [int(path.stem.split("shard")[-1]) for path in checkpoint.layout.files]
        assert numbers == [*range(12), *range(12)]

    def test_a_prefix_that_is_no_file(self, tmp_path: Path, read_model: ReadModel) -> None:
        """metaseq's settings name `reshard.pt`, which is never a file (metaseq#574)."""
        truth = write_tiny_parts(tmp_path)
        checkpoint = open_checkpoint(tmp_path / "reshard.pt")
        assert_holds(read_model(checkpoint), truth)
        assert any("there is no file reshard.pt" in said for said in checkpoint.layout.evidence)
        with pytest.raises(UsageError, match="no such file"):
            open_checkpoint(tmp_path / "restored.pt")

    @pytest.mark.parametrize("layout", ["one file", "raw, one rank"])
    def test_one_file_by_its_name(self, layout: str, tmp_path: Path, read_model: ReadModel) -> None:
        truth = LAYOUTS[layout](tmp_path)
        [path] = tmp_path.iterdir()
        assert_holds(read_model(open_checkpoint(path)), truth)
        moved = path.rename(tmp_path / "weights")
        assert_holds(read_model(open_checkpoint(moved)), truth)

    @pytest.mark.parametrize("layout", ["raw", "parts, a storage per unit"])
    def test_one_file_of_several(self, layout: str, tmp_path: Path) -> None:
        LAYOUTS[layout](tmp_path)
        for path in tmp_path.iterdir():
            with pytest.raises(CheckpointError) as caught:
                open_checkpoint(path)
            assert caught.value.hint is not None
            assert "folder" in caught.value.hint or "shards" in caught.value.hint

    def test_raw_and_consolidated_in_one_folder(self, tmp_path: Path) -> None:
        write_tiny_checkpoint(tmp_path)
        truth = write_tiny_parts(tmp_path)
        with pytest.raises(UsageError, match="several checkpoints: checkpoint_last, reshard"):
            open_checkpoint(tmp_path)
        assert open_checkpoint(f"{tmp_path}/reshard*").layout.tp_size == 2
        assert truth

    def test_the_same_rank_twice(self, tmp_path: Path) -> None:
        write_tiny_parts(tmp_path, tp_size=1)
        write_tiny_parts(tmp_path, tp_size=1, name="reshard-model_part-{part}-shard0.pt")
        with pytest.raises(UsageError, match="claim the same rank"):
            open_checkpoint(tmp_path)

    @pytest.mark.parametrize("name", ["a-model_part-0.pt", "a-shard0.pt", "a.pt"])
    def test_content_counts_and_not_names(
        self, name: str, tmp_path: Path, read_model: ReadModel
    ) -> None:
        """Consolidated files with raw files' names and the other way round."""
        for number, layout in enumerate(("one file", "raw, one rank")):
            folder = tmp_path / str(number)
            truth = LAYOUTS[layout](folder)
            [path] = folder.iterdir()
            path.rename(folder / name)
            assert_holds(read_model(open_checkpoint(folder)), truth)


class TestRealPickles:
    """Written by torch and omegaconf themselves."""

    @staticmethod
    def content(truth: dict[str, Array], **entries: Any) -> dict[str, Any]:
        model = {name: torch.from_numpy(values.copy()) for name, values in truth.items()}
        return {"model": OrderedDict(model), **entries}

    def test_a_dictconfig_all_the_way_down(self, tmp_path: Path) -> None:
        arguments = model_arguments(TINY, 1, fused=False) | {"data": "???", "nested": {"a": [1]}}
        cfg = OmegaConf.create({"model": arguments, "task": {"x": "${model.arch}"}})
        torch.save(self.content(tiny_model(TINY, FLOAT, 0), cfg=cfg), tmp_path / "reshard.pt")
        assert open_checkpoint(tmp_path).config == TINY

    def test_a_structured_value_that_is_missing_says_nothing(self, tmp_path: Path) -> None:
        arguments = model_arguments(TINY, 1, fused=False) | {"max_target_positions": "???"}
        cfg = {"model": OmegaConf.create(arguments)}
        torch.save(self.content(tiny_model(TINY, FLOAT, 0), cfg=cfg), tmp_path / "reshard.pt")
        assert open_checkpoint(tmp_path).config == TINY

    def test_args_beside_an_empty_cfg(self, tmp_path: Path) -> None:
        args = argparse.Namespace(**model_arguments(TINY, 1, fused=False))
        content = self.content(tiny_model(TINY, FLOAT, 0), cfg=None, args=args)
        torch.save(content, tmp_path / "reshard.pt")
        assert open_checkpoint(tmp_path).config == TINY

    def test_parameters_and_views(self, tmp_path: Path, read_model: ReadModel) -> None:
        """nn.Parameters, and tensors that are parts of a larger storage."""
        truth = tiny_model(TINY, FLOAT, 0)
        args = argparse.Namespace(**model_arguments(TINY, 1, fused=False))
        content = self.content(truth, args=args)
        model = content["model"]
        name = "decoder.embed_tokens.weight"
        model[name] = torch.nn.Parameter(torch.cat([model[name]] * 3)[56:112])
        torch.save(content, tmp_path / "reshard.pt")
        assert_holds(read_model(open_checkpoint(tmp_path)), truth)

    def test_a_legacy_archive(self, tmp_path: Path) -> None:
        content = self.content(tiny_model(TINY, FLOAT, 0))
        path = tmp_path / "reshard.pt"
        torch.save(content, path, _use_new_zipfile_serialization=False)
        with pytest.raises(FormatError, match=r"legacy torch\.save file") as caught:
            open_checkpoint(path)
        assert caught.value.hint is not None


class TestPains:
    """What users of the original tools met, by issue (metaseq's numbers)."""

    def test_695_an_unknown_tensor_is_never_dropped(self, tmp_path: Path, edit: Edit) -> None:
        write_tiny_parts(tmp_path, tp_size=1)

        def add(content: dict[str, Any]) -> None:
            model = content["model"]
            model["decoder.layers.0.activation_fn.gate.weight"] = model["decoder.version"]

        edit(tmp_path / "reshard-model_part-0.pt", add)
        with pytest.raises(CheckpointError, match=r"activation_fn\.gate\.weight is not part"):
            open_checkpoint(tmp_path)

    def test_689_a_lost_bias_is_named(self, tmp_path: Path, edit: Edit) -> None:
        write_tiny_parts(tmp_path)
        remove = "decoder.layers.1.fc2.bias"
        edit(tmp_path / "reshard-model_part-1.pt", lambda content: content["model"].pop(remove))
        with pytest.raises(CheckpointError, match=r"part 1: tensor decoder\.layers\.1\.fc2\.bias"):
            open_checkpoint(tmp_path)

    @pytest.mark.parametrize("arguments", ["namespace", "absent"])
    def test_136_a_lost_last_layer_norm_makes_no_post_norm_model(
        self, arguments: Any, tmp_path: Path, edit: Edit, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """transformers ran for six weeks without it (transformers#17653)."""
        monkeypatch.setitem(KNOWN_MODELS, "OPT-tiny", TINY)
        write_tiny_parts(tmp_path, tp_size=1, form=MetaseqForm(arguments=arguments))

        def lose(content: dict[str, Any]) -> None:
            for part in ("weight", "bias"):
                del content["model"][f"decoder.layer_norm.{part}"]

        edit(tmp_path / "reshard-model_part-0.pt", lose)
        with pytest.raises(
            CheckpointError, match=r"layer_norm\.weight is missing, and .* pre-norm"
        ):
            open_checkpoint(tmp_path)

    def test_383_opt_350m_has_none(self, tmp_path: Path) -> None:
        write_tiny_parts(tmp_path, replace(TINY, pre_norm=False, embedding_size=8), tp_size=1)
        checkpoint = open_checkpoint(tmp_path)
        assert not checkpoint.config.pre_norm
        assert any("post-norm" in said for said in checkpoint.layout.evidence)

    def test_136_a_model_without_its_version_is_a_model(self, tmp_path: Path) -> None:
        LAYOUTS["raw, no version"](tmp_path)
        assert "decoder.version" not in open_checkpoint(tmp_path).index
