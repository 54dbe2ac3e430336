"""Weights that exceed the memory stay in the files, and say the same."""

import re
import shutil
from pathlib import Path

import pytest
import torch

from unshard.architectures.opt import OPTConfig
from unshard.dtypes import FLOAT16, FLOAT32
from unshard.engine import room
from unshard.engine.load import load_engine
from unshard.engine.request import GenerationRequest, SamplingParams
from unshard.errors import UsageError
from unshard.index.build import open_checkpoint
from unshard.library.precisions import BF16, FP32, INT4, INT8
from unshard.progress import Silent
from unshard.testing.tiny_hugging_face import HuggingFaceForm, write_tiny_hugging_face

WIDE = OPTConfig(2, 64, 4, 128, 2048, 128, 64)
NARROW = OPTConfig(2, 64, 4, 128, 2048, 128, 32, pre_norm=False)
UNTIED = OPTConfig(2, 64, 4, 128, 2048, 128, 64, tied_embeddings=False)


class Notes(Silent):
    def __init__(self):
        self.lines = []

    def note(self, line):
        self.lines.append(line)


@pytest.fixture
def stored(tmp_path, demo_model):
    def stored(config, dtype, **form):
        write_tiny_hugging_face(tmp_path, config, form=HuggingFaceForm(dtype, **form))
        for file in ("gpt2-vocab.json", "gpt2-merges.txt"):
            shutil.copy(demo_model / file, tmp_path / file)
        return open_checkpoint(tmp_path)

    return stored


@pytest.fixture
def scarce(monkeypatch):
    monkeypatch.setattr(room, "free_bytes", lambda _device: 100_000)


def scores(engine, run):
    request = GenerationRequest("a", tuple(range(2, 60)), SamplingParams(0, score_prompt=True))
    (output,) = run(engine, [request])["a"]
    return torch.tensor([token.logprob for token in output.prompt_tokens[1:]])


@pytest.mark.parametrize("how", ["", "off"])
@pytest.mark.parametrize(
    ("config", "precision", "container"),
    [
        (WIDE, BF16, "safetensors"),
        (WIDE, BF16, "bin"),
        (NARROW, FP32, "safetensors"),
        (UNTIED, FP32, "safetensors"),
    ],
)
def test_mapped_weights_say_what_loaded_ones_say(
    config, precision, container, how, stored, run, switch, monkeypatch
):
    switch(how)
    checkpoint, notes = stored(config, precision.exact, container=container, num_files=2), Notes()
    loaded = scores(load_engine(checkpoint, precision=precision, max_batch=1), run)
    monkeypatch.setattr(room, "free_bytes", lambda _device: 100_000)
    mapped = scores(load_engine(checkpoint, precision=precision, max_batch=1, progress=notes), run)
    assert (mapped - loaded).abs().max() < (0.05 if precision is BF16 else 1e-4)
    (line,) = notes.lines
    assert re.fullmatch(r"0.0 GB of weights exceed .* they stay in the files, .*", line)


@pytest.mark.usefixtures("scarce")
@pytest.mark.parametrize("precision", [FP32, INT8, INT4])
def test_what_is_stored_in_another_dtype_is_refused(precision, stored):
    with pytest.raises(UsageError, match="weights exceed") as caught:
        load_engine(stored(WIDE, FLOAT16), precision=precision)
    assert "reshard" in caught.value.hint


@pytest.mark.slow
def test_mapped_weights_take_no_memory_of_their_own(stored, monkeypatch):
    monkeypatch.setattr(room, "free_bytes", lambda _device: 1_000_000)
    config = OPTConfig(4, 512, 8, 2048, 8192, 128, 512)
    checkpoint = stored(config, FLOAT32)
    before = anonymous_bytes()
    engine = load_engine(checkpoint, max_batch=1)
    assert engine.has_work is False
    assert anonymous_bytes() - before < 10_000_000  # the weights are 67 MB


def anonymous_bytes():
    status = Path("/proc/self/status").read_text()
    return int(re.search(r"RssAnon:\s+(\d+)", status)[1]) * 1024
