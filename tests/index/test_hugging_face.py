"""Hugging Face checkpoints as transformers itself writes them, and as hubs hold them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import save_file, save_model

from unshard.errors import CheckpointError, FormatError, UsageError
from unshard.index.build import open_checkpoint
from unshard.index.checkpoint import Checkpoint
from unshard.testing.tiny_hugging_face import HuggingFaceForm, write_tiny_hugging_face
from unshard.testing.tiny_model import Array

ReadModel = Callable[[Checkpoint], dict[str, Array]]

VARIANTS: dict[str, dict[str, Any]] = {
    "pre-norm": {},
    "as OPT-350M": {"word_embed_proj_dim": 8, "do_layer_norm_before": False},
    "projected, pre-norm": {"word_embed_proj_dim": 8},
    "untied": {"tie_word_embeddings": False},
    "gelu": {"activation_function": "gelu"},
}


def opt(variant: str, dtype: torch.dtype = torch.float16) -> transformers.OPTForCausalLM:
    torch.manual_seed(0)
    sizes = {
        "vocab_size": 40, "hidden_size": 16, "num_hidden_layers": 2, "ffn_dim": 24,
        "max_position_embeddings": 12, "num_attention_heads": 4,
    }  # fmt: skip
    config = transformers.OPTConfig(**sizes, **VARIANTS[variant])
    model = transformers.OPTForCausalLM(config).to(dtype)
    for parameter in model.parameters():  # norms and biases start as ones and zeros
        torch.nn.init.normal_(parameter, std=0.05)
    return model


def state_of(model: transformers.OPTForCausalLM) -> dict[str, np.ndarray]:
    """The model's own tensors under canonical names: an independent list of them."""
    return dict(_canonical(model))


def _canonical(model: transformers.OPTForCausalLM) -> Iterator[tuple[str, np.ndarray]]:
    for name, value in model.state_dict().items():
        name = name.removeprefix("model.")
        for theirs, ours in (
            ("decoder.final_layer_norm.", "decoder.layer_norm."),
            ("decoder.project_in.", "decoder.project_in_dim."),
            ("decoder.project_out.", "decoder.project_out_dim."),
        ):
            name = name.replace(theirs, ours)
        if name == "lm_head.weight":
            if model.config.tie_word_embeddings:
                continue
            name = "decoder.output_projection.weight"
        whole = value.view(torch.int16) if value.dtype is torch.bfloat16 else value
        yield name, whole.numpy()


def assert_holds(found: dict[str, Array], model: transformers.OPTForCausalLM) -> None:
    truth = state_of(model)
    assert found.keys() == truth.keys()
    for name, values in truth.items():
        assert found[name].tobytes() == values.tobytes(), name
        assert found[name].shape == values.shape, name


def save_bin(model: transformers.OPTForCausalLM, folder: Path, num_files: int = 1) -> None:
    """What `save_pretrained` wrote before safetensors: torch.save of the state dict."""
    model.config.save_pretrained(folder)
    state = model.state_dict()
    if num_files == 1:
        torch.save(state, folder / "pytorch_model.bin")
        return
    names = list(state)
    weight_map = {}
    for number in range(num_files):
        file = f"pytorch_model-{number + 1:05d}-of-{num_files:05d}.bin"
        mine = names[number::num_files]
        torch.save({name: state[name] for name in mine}, folder / file)
        weight_map |= dict.fromkeys(mine, file)
    index = {"metadata": {"total_size": 0}, "weight_map": weight_map}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("variant", VARIANTS)
def test_what_transformers_saves(
    variant: str, dtype: torch.dtype, tmp_path: Path, read_model: ReadModel
) -> None:
    model = opt(variant, dtype)
    model.save_pretrained(tmp_path)
    assert (tmp_path / "model.safetensors").is_file()
    assert_holds(read_model(open_checkpoint(tmp_path)), model)


@pytest.mark.parametrize("variant", VARIANTS)
def test_what_transformers_shards(variant: str, tmp_path: Path, read_model: ReadModel) -> None:
    model = opt(variant)
    model.save_pretrained(tmp_path, max_shard_size="3KB")
    checkpoint = open_checkpoint(tmp_path)
    assert len(checkpoint.layout.files) > 3
    assert_holds(read_model(checkpoint), model)
    index = tmp_path / "model.safetensors.index.json"
    assert_holds(read_model(open_checkpoint(index)), model)
    assert_holds(read_model(open_checkpoint(f"{tmp_path}/model-*.safetensors")), model)


@pytest.mark.parametrize("num_files", [1, 4])
@pytest.mark.parametrize("variant", VARIANTS)
def test_what_transformers_saved_once(
    variant: str, num_files: int, tmp_path: Path, read_model: ReadModel
) -> None:
    model = opt(variant)
    save_bin(model, tmp_path, num_files)
    assert_holds(read_model(open_checkpoint(tmp_path)), model)


def test_the_bare_decoder(tmp_path: Path, read_model: ReadModel) -> None:
    """`OPTModel` has no head and no prefix."""
    model = opt("as OPT-350M")
    model.model.save_pretrained(tmp_path)
    assert_holds(read_model(open_checkpoint(tmp_path)), model)


def test_a_tied_head_that_shares_its_storage_costs_nothing(tmp_path: Path) -> None:
    model = opt("pre-norm")
    save_bin(model, tmp_path)
    checkpoint = open_checkpoint(tmp_path)
    assert checkpoint.index.ledger.replica_bytes == 0
    assert "its bytes are stored once" in checkpoint.layout.evidence[-1]


def test_a_tied_head_under_its_own_name_alone(tmp_path: Path, read_model: ReadModel) -> None:
    """safetensors' own `save_model` keeps the first name in the alphabet."""
    model = opt("pre-norm")
    model.config.save_pretrained(tmp_path)
    save_model(model, str(tmp_path / "model.safetensors"))
    assert_holds(read_model(open_checkpoint(tmp_path)), model)


def test_a_tied_head_with_bytes_of_its_own_is_a_copy(tmp_path: Path) -> None:
    model = opt("pre-norm")
    model.config.save_pretrained(tmp_path)
    state = {name: value.clone() for name, value in model.state_dict().items()}
    save_file(state, tmp_path / "model.safetensors")
    ledger = open_checkpoint(tmp_path).index.ledger
    assert ledger.replica_bytes == state["lm_head.weight"].nbytes


def test_the_version_buffer_of_early_files(tmp_path: Path, read_model: ReadModel) -> None:
    """transformers ignored it; nothing stored is dropped without a word here."""
    model = opt("pre-norm")
    model.config.save_pretrained(tmp_path)
    version = torch.tensor([3.0], dtype=torch.float16)
    state = {"model.decoder.version": version, **model.state_dict()}
    torch.save(state, tmp_path / "pytorch_model.bin")
    found = read_model(open_checkpoint(tmp_path))
    assert found.pop("decoder.version").tolist() == [3.0]
    assert_holds(found, model)


def test_safetensors_are_preferred(tmp_path: Path) -> None:
    model = opt("pre-norm")
    save_bin(model, tmp_path, 3)
    model.save_pretrained(tmp_path)
    layout = open_checkpoint(tmp_path).layout
    assert [path.name for path in layout.files] == ["model.safetensors"]
    assert any("safetensors are preferred to pytorch_model" in said for said in layout.evidence)


def test_a_whole_file_beside_its_pieces(tmp_path: Path) -> None:
    """As transformers chooses: the whole one; the others are named."""
    model = opt("pre-norm")
    model.save_pretrained(tmp_path / "pieces", max_shard_size="6KB")
    model.save_pretrained(tmp_path)
    for path in (tmp_path / "pieces").glob("model*"):
        shutil.copy(path, tmp_path)
    layout = open_checkpoint(tmp_path).layout
    assert [path.name for path in layout.files] == ["model.safetensors"]
    assert any("is not read" in said for said in layout.evidence)


def test_a_file_that_the_index_does_not_name_is_named(tmp_path: Path) -> None:
    opt("pre-norm").save_pretrained(tmp_path, max_shard_size="6KB")
    write_tiny_hugging_face(tmp_path / "other")
    shutil.copy(tmp_path / "other" / "model.safetensors", tmp_path / "adapter.safetensors")
    evidence = open_checkpoint(tmp_path).layout.evidence
    assert any(said.startswith("adapter.safetensors is not read") for said in evidence)


def test_trainer_state_is_no_checkpoint(tmp_path: Path) -> None:
    """transformers' Trainer leaves its optimizer beside the weights."""
    model = opt("pre-norm")
    model.save_pretrained(tmp_path)
    for name in ("optimizer.pt", "scheduler.pt", "training_args.bin"):
        torch.save({"state": {}}, tmp_path / name)
    assert open_checkpoint(tmp_path).layout.kind == "huggingface"


class TestDamage:
    """What does not fit is refused by name."""

    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        write_tiny_hugging_face(tmp_path, form=HuggingFaceForm(num_files=3))
        return tmp_path

    @staticmethod
    def edit(path: Path, **changes: Any) -> None:
        said = json.loads(path.read_text())
        said.update(changes)
        path.write_text(json.dumps(said))

    def test_a_file_of_the_index_is_missing(self, folder: Path) -> None:
        (folder / "model-00002-of-00003.safetensors").unlink()
        with pytest.raises(CheckpointError, match=r"missing model-00002-of-00003\.safetensors"):
            open_checkpoint(folder)

    def test_a_numbered_file_is_missing_and_there_is_no_index(self, folder: Path) -> None:
        (folder / "model.safetensors.index.json").unlink()
        open_checkpoint(folder)
        (folder / "model-00003-of-00003.safetensors").unlink()
        with pytest.raises(CheckpointError, match=r"missing model-00003-of-00003\.safetensors"):
            open_checkpoint(folder)

    def test_one_of_several_files(self, folder: Path) -> None:
        with pytest.raises(CheckpointError, match="missing model-00001") as caught:
            open_checkpoint(folder / "model-00002-of-00003.safetensors")
        assert caught.value.hint is not None
        assert "name their folder" in caught.value.hint

    def test_a_tensor_is_not_where_the_index_says(self, folder: Path) -> None:
        path = folder / "model.safetensors.index.json"
        weight_map = json.loads(path.read_text())["weight_map"]
        weight_map["model.decoder.embed_tokens.weight"] = "model-00003-of-00003.safetensors"
        self.edit(path, weight_map=weight_map)
        with pytest.raises(CheckpointError, match=r"00003\.safetensors: has no tensor .*embed_tok"):
            open_checkpoint(folder)

    @pytest.mark.parametrize(
        "weight_map",
        [
            None,
            {},
            [],
            {"a": 1},
            {"a": "../model.safetensors"},
            {"a": "/etc/passwd"},
            {"a": ".."},
            {"a": ""},
            {"a": "x" * 5000},
        ],
    )
    def test_an_index_that_cannot_be(self, folder: Path, weight_map: object) -> None:
        self.edit(folder / "model.safetensors.index.json", weight_map=weight_map)
        with pytest.raises((FormatError, CheckpointError), match=r"index\.json|missing \.\."):
            open_checkpoint(folder)

    def test_an_index_that_is_no_json(self, folder: Path) -> None:
        (folder / "model.safetensors.index.json").write_text("{" * 100_000)
        with pytest.raises(FormatError, match="not valid JSON"):
            open_checkpoint(folder)

    def test_the_same_tensor_in_two_files(self, folder: Path) -> None:
        (folder / "model.safetensors.index.json").unlink()
        first = folder / "model-00001-of-00003.safetensors"
        shutil.copy(first, folder / "again.safetensors")
        with pytest.raises(CheckpointError, match="also in another file"):
            open_checkpoint(folder)

    def test_no_config(self, folder: Path) -> None:
        (folder / "config.json").unlink()
        with pytest.raises(CheckpointError, match=r"no config\.json"):
            open_checkpoint(folder)

    @pytest.mark.parametrize(
        ("changes", "problem"),
        [
            ({"enable_bias": False}, "without biases"),
            ({"layer_norm_elementwise_affine": False}, "norms without weights"),
            ({"_remove_final_layer_norm": True}, "no last layer norm"),
            ({"model_type": "llama"}, "not 'opt'"),
            ({"num_attention_heads": 3}, "do not divide"),
            ({"word_embed_proj_dim": "16"}, "word_embed_proj_dim"),
            ({"tie_word_embeddings": None}, "tie_word_embeddings"),
            ({"tie_word_embeddings": False}, r"lm_head\.weight is missing"),
            ({"do_layer_norm_before": False}, "final_layer_norm.* is not part"),
            ({"num_hidden_layers": 3}, r"layers\.2\..* is missing"),
            ({"num_hidden_layers": 1_000_000}, "tensors for 1000000 layers"),
            ({"ffn_dim": 25}, r"fc1.*\(24,"),
        ],
    )
    def test_configs_that_say_something_else(
        self, folder: Path, changes: dict[str, Any], problem: str
    ) -> None:
        self.edit(folder / "config.json", **changes)
        with pytest.raises((CheckpointError, FormatError), match=problem):
            open_checkpoint(folder)

    def test_a_width_that_is_left_out_or_null(self, folder: Path) -> None:
        self.edit(folder / "config.json", word_embed_proj_dim=None)
        assert open_checkpoint(folder).config.embedding_size == 16

    def test_no_last_layer_norm_where_there_is_none_anyway(self, tmp_path: Path) -> None:
        opt("as OPT-350M").save_pretrained(tmp_path)
        self.edit(tmp_path / "config.json", _remove_final_layer_norm=True)
        open_checkpoint(tmp_path)

    def test_two_kinds_of_files_match(self, folder: Path) -> None:
        (folder / "pytorch_model.bin").write_bytes(b"")
        with pytest.raises(UsageError, match="several kinds"):
            open_checkpoint(f"{folder}/*")

    def test_a_legacy_archive(self, tmp_path: Path) -> None:
        """torch.save before 1.6 wrote no zip."""
        model = opt("pre-norm")
        model.config.save_pretrained(tmp_path)
        torch.save(
            model.state_dict(),
            tmp_path / "pytorch_model.bin",
            _use_new_zipfile_serialization=False,
        )
        with pytest.raises(FormatError, match=r"legacy torch\.save file"):
            open_checkpoint(tmp_path)
