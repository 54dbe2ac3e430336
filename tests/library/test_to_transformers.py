"""`unshard.to_transformers`: the model is the one that transformers loads from our export."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import pytest
import torch
from transformers import AutoTokenizer, OPTForCausalLM

import unshard
from unshard.errors import CheckpointError, UsageError
from unshard.execute.run import run_plan
from unshard.index.build import open_checkpoint
from unshard.library import transformers_model
from unshard.plan.safetensors_target import plan_safetensors
from unshard.testing.layouts import LAYOUTS
from unshard.testing.tiny_model import TINY

VARIANTS = {
    "as published": TINY,
    "350M": replace(TINY, embedding_size=8, pre_norm=False),
    "untied": replace(TINY, tied_embeddings=False),
    "gelu": replace(TINY, activation="gelu"),
}
PIECES = ("<s>", "<pad>", "</s>", "<unk>", "a", "b", "ab")
IDS = torch.tensor([[2, 5, 4, 31, 55]])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    vocab = {piece: number for number, piece in enumerate(PIECES)}
    (folder / "gpt2-vocab.json").write_text(json.dumps(vocab))
    (folder / "gpt2-merges.txt").write_text("#version: 0.2\na b\n")
    return folder


@pytest.mark.parametrize(
    ("layout", "variant", "dtype"),
    [
        ("raw", "as published", None),
        ("raw", "350M", None),
        ("raw", "untied", "fp32"),
        ("raw", "as published", "bf16"),
        ("parts, a storage per unit", "350M", "fp32"),
        ("safetensors", "untied", None),
        ("safetensors", "gelu", "fp32"),
    ],
)
def test_logits_are_those_of_the_export(layout, variant, dtype, folder, tmp_path):
    LAYOUTS[layout](folder, VARIANTS[variant])
    run_plan(plan_safetensors(open_checkpoint(folder)), tmp_path / "export", sync=False)
    torch_dtype = {None: torch.float16, "fp32": torch.float32, "bf16": torch.bfloat16}[dtype]
    theirs = OPTForCausalLM.from_pretrained(tmp_path / "export", dtype=torch_dtype)
    ours, _ = unshard.to_transformers(folder, dtype=dtype)
    assert ours.dtype == torch_dtype
    assert not ours.training
    with torch.inference_mode():
        assert torch.equal(ours(IDS).logits, theirs(IDS).logits)
    tied = ours.lm_head.weight is ours.model.decoder.embed_tokens.weight
    assert tied == VARIANTS[variant].tied_embeddings
    assert ours.generation_config.to_dict() == theirs.generation_config.to_dict()
    said = ours.config.to_dict() | {"_name_or_path": theirs.config.name_or_path}
    assert said == theirs.config.to_dict()


def test_every_layout_fills_it(folder):
    """Whatever lies on disk, the same parameters."""
    found = {}
    for number, name in enumerate(("raw", "flat, 2022", "one file", "safetensors, several files")):
        of_layout = folder.parent / str(number)
        LAYOUTS[name](of_layout)
        for path in folder.iterdir():
            (of_layout / path.name).write_bytes(path.read_bytes())
        found[name] = unshard.to_transformers(of_layout)[0].state_dict()
    first = found["raw"]
    assert all(torch.equal(first[k], state[k]) for state in found.values() for k in first)


def test_the_tokenizer_is_the_exports(folder, tmp_path):
    LAYOUTS["raw"](folder)
    run_plan(plan_safetensors(open_checkpoint(folder)), tmp_path / "export", sync=False)
    _, ours = unshard.to_transformers(folder)
    theirs = AutoTokenizer.from_pretrained(tmp_path / "export")
    assert ours("abba").input_ids == theirs("abba").input_ids == [2, 6, 5, 4]
    assert type(ours) is type(theirs)


def test_it_trains(folder):
    """Parameters are leaves that want gradients, as after `from_pretrained`."""
    LAYOUTS["raw"](folder)
    model, _ = unshard.to_transformers(folder, dtype=torch.float32)
    model(IDS, labels=IDS).loss.backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_weights_are_read_into_the_models_own_memory(folder):
    """A tensor of the stored dtype has no other copy: the reads end in the parameters."""
    LAYOUTS["raw"](folder)
    filled = []
    fill = transformers_model.fill_tensors

    def watched(index, targets, progress):
        filled.extend(target.data_ptr() for target in targets.values())
        fill(index, targets, progress)

    with patch.object(transformers_model, "fill_tensors", watched):
        model, _ = unshard.to_transformers(folder)
    assert {parameter.data_ptr() for parameter in model.parameters()} == set(filled)


def test_a_model_that_has_more_is_refused(folder):
    LAYOUTS["raw"](folder)

    class More(OPTForCausalLM):
        def __init__(self, config):
            super().__init__(config)
            self.register_buffer("scale", torch.ones(1))

    with (
        patch.object(transformers_model, "OPTForCausalLM", More),
        pytest.raises(CheckpointError, match="made differently here: scale"),
    ):
        unshard.to_transformers(folder)


@pytest.mark.parametrize("dtype", ["int8", "fp64", torch.float64, "float8"])
def test_a_dtype_it_cannot_compute_in_is_refused(dtype, folder):
    LAYOUTS["raw"](folder)
    with pytest.raises(UsageError, match=r"float8|does not compute"):
        unshard.to_transformers(folder, dtype=dtype)


def test_without_a_tokenizer_it_says_so(tmp_path):
    LAYOUTS["raw"](tmp_path)
    with pytest.raises(UsageError, match="has no tokenizer"):
        unshard.to_transformers(tmp_path)


@pytest.mark.parametrize("package", ["torch", "transformers"])
def test_a_missing_package_is_named(package, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.delitem(sys.modules, "unshard.library.transformers_model", raising=False)
    with pytest.raises(UsageError, match=f"the package {package}, which is not installed") as e:
        unshard.to_transformers("x")
    assert "unshard[transformers]" in e.value.hint
