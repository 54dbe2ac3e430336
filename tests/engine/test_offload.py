"""Layers that stay in the host's memory: how many, and that a text does not notice."""

from __future__ import annotations

import io
import sys

import pytest
import torch

from unshard.cli.main import main
from unshard.engine import load
from unshard.engine.load import load_engine
from unshard.engine.offload import layers_away
from unshard.engine.request import GenerationRequest, SamplingParams
from unshard.errors import UsageError
from unshard.index.build import open_checkpoint
from unshard.library.precisions import BF16, FP32, INT4, INT8
from unshard.models import linear

CUDA = torch.device("cuda")
LAYER = 12 * 256 * 256 + 13 * 256
"""Values of one of the demo model's layers."""


@pytest.fixture(scope="module")
def checkpoint(demo_model):
    return open_checkpoint(demo_model)


@pytest.mark.parametrize("size", [1, 2])
@pytest.mark.parametrize(
    ("precision", "layer_bytes"),
    [
        (BF16, 2 * LAYER),
        (INT8, 4 * LAYER),
        (INT4, 12 * 256 * 256 * 17 // 32 + 2 * 13 * 256),
    ],
)
def test_as_many_as_there_is_room_for(precision, layer_bytes, size, checkpoint):
    def away(num_bytes):
        return layers_away(checkpoint, precision, CUDA, size, num_bytes / size / (1 << 30))

    assert away(3 * layer_bytes) == away(4 * layer_bytes - 1) == 3
    assert away(4 * layer_bytes) == away(10**12) == 4
    assert away(0) == 0
    with pytest.raises(UsageError, match="holds 2 layers") as caught:
        away(3 * layer_bytes - 1)
    assert caught.value.hint.startswith("give 0.00")


def test_without_a_gpu_there_is_nothing_to_spare(checkpoint):
    with pytest.raises(UsageError, match="for GPUs"):
        load_engine(checkpoint, cpu_offload_gb=1)


@pytest.mark.parametrize(
    "command", [("generate", "x"), ("generate", "--input", "-"), ("score", "-"), ("serve",)]
)
def test_every_command_that_computes_knows_of_it(command, demo_model, monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"{}")))
    name, *arguments = command
    options = ["--cpu-offload-gb", "2"] + (["--port", "0"] if name == "serve" else [])
    assert main([name, str(demo_model), *arguments, *options]) == 2
    assert "--cpu-offload-gb is for GPUs" in capsys.readouterr().err


@pytest.mark.parametrize("precision", [FP32, INT8, INT4])
def test_a_text_does_not_notice(precision, checkpoint, run, monkeypatch):
    monkeypatch.setattr(linear, "onednn_multiplies", lambda _weight: False)
    requests = [
        GenerationRequest(str(n), tuple(range(5, 9 + n)), SamplingParams(12, temperature=0))
        for n in range(3)
    ]

    def tokens():
        outputs = run(load_engine(checkpoint, precision=precision, max_batch=3), requests)
        return {
            name: [(t.token_id, t.logprob) for output in found for t in output.tokens]
            for name, found in outputs.items()
        }

    here = tokens()
    monkeypatch.setattr(load, "layers_away", lambda *_: 3)
    assert tokens() == here
