"""vLLM's loader: each rank gets its slices of any layout, and reads no byte more."""

from __future__ import annotations

import importlib
import tomllib
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tests.vllm.parallel_opt import FUSED, ParallelOPT

import unshard
from unshard.dtypes import BFLOAT16, FLOAT16
from unshard.errors import CheckpointError, UsageError
from unshard.placement import Shard
from unshard.plan.safetensors_target import hugging_face_config
from unshard.testing.layouts import LAYOUTS
from unshard.testing.tiny_model import TINY

ROOT = Path(__file__).parents[2]
NARROW = replace(TINY, embedding_size=8, pre_norm=False)


@pytest.fixture
def load(loaders):
    """Runs vLLM's loader; the bytes that it said it read."""

    def load(source, model, config, caplog, extra=None, **described):
        importlib.import_module("unshard.vllm.loader").register()
        settings = SimpleNamespace(model_loader_extra_config=extra)
        fields = hugging_face_config(config, FLOAT16) | described
        model_config = SimpleNamespace(
            model=str(source), quantization=None, hf_config=SimpleNamespace(**fields)
        )
        loader = loaders["unshard"](settings)
        loader.download_model(model_config)
        with caplog.at_level("INFO", "vllm.unshard"):
            loader.load_weights(model, model_config)
        return int(caplog.messages[-1].split()[2])

    return load


def as_floats(array, dtype):
    if dtype is BFLOAT16:
        return (array.astype(np.uint32) << 16).view(np.float32)
    return array.astype(np.float32)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_rank_from_every_layout(layout, load, tmp_path, caplog):
    truth = LAYOUTS[layout](tmp_path, NARROW)
    stored = unshard.open(tmp_path)["decoder.embed_tokens.weight"].dtype
    for rank in range(4):
        model = ParallelOPT(NARROW, rank, 4)
        num_read = load(tmp_path, model, NARROW, caplog)
        share = 0
        for theirs, rule in model.rules.items():
            mine = as_floats(truth[rule.name], stored)
            if isinstance(rule.placement, Shard):
                mine = np.split(mine, 4, axis=rule.placement.dim)[rank]
            filled = model.parameters[FUSED.sub(".qkv_proj.", theirs)]
            if found := FUSED.search(theirs):
                filled = filled.chunk(3)["qkv".index(found[1])]
            assert np.array_equal(filled.numpy(), mine), theirs
            share += mine.size * stored.itemsize_bytes
        assert num_read == share


def test_the_source_may_be_elsewhere(load, tmp_path, caplog):
    """As `unshard serve` starts it: the model is a folder without weights."""
    LAYOUTS["raw"](tmp_path / "raw")
    model = ParallelOPT(TINY, 0, 1)
    load(tmp_path / "config", model, TINY, caplog, extra={"source": str(tmp_path / "raw")})
    assert not any(torch.isnan(parameter).any() for parameter in model.parameters.values())


@pytest.mark.parametrize(
    ("field", "said"), [("num_attention_heads", 2), ("activation_function", "gelu")]
)
def test_another_models_config_is_refused(field, said, load, tmp_path, caplog):
    """Shapes do not show these: the model would talk nonsense."""
    LAYOUTS["raw"](tmp_path)
    with pytest.raises(CheckpointError, match=f"its {field} is .*, but vLLM was told {said}"):
        load(tmp_path, ParallelOPT(TINY, 0, 1), TINY, caplog, **{field: said})


def test_a_parameter_without_a_tensor_is_refused(load, tmp_path, caplog):
    LAYOUTS["raw"](tmp_path)
    model = ParallelOPT(TINY, 0, 1)
    model.parameters["lm_head.bias"] = torch.zeros(1)
    with pytest.raises(CheckpointError, match=r"parameter lm_head\.bias was not filled"):
        load(tmp_path, model, TINY, caplog)


def test_an_unknown_setting_is_refused(load, tmp_path, caplog):
    with pytest.raises(UsageError, match="unknown setting 'sorce'"):
        load(tmp_path, ParallelOPT(TINY, 0, 1), TINY, caplog, extra={"sorce": "x"})


def test_vllm_finds_the_plugin(loaders):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    plugins = project["entry-points"]["vllm.general_plugins"]
    module, function = plugins["unshard"].split(":")
    getattr(importlib.import_module(module), function)()
    assert list(loaders) == ["unshard"]
