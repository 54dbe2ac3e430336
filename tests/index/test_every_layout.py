"""The laws of the index, for every layout there is."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from unshard.architectures.opt import OPTConfig
from unshard.index.build import open_checkpoint
from unshard.index.checkpoint import Checkpoint
from unshard.testing.layouts import LAYOUTS
from unshard.testing.tiny_checkpoint import write_tiny_checkpoint
from unshard.testing.tiny_metaseq import MetaseqForm
from unshard.testing.tiny_model import TINY, Array
from unshard.testing.tiny_parts import write_tiny_parts

ReadModel = Callable[[Checkpoint], dict[str, Array]]

MODELS = {
    "pre-norm": TINY,
    "as OPT-350M": replace(TINY, embedding_size=8, pre_norm=False),
    "untied": replace(TINY, tied_embeddings=False, num_layers=4),
}


def assert_same(found: dict[str, Array], truth: dict[str, Array]) -> None:
    assert found.keys() == truth.keys()
    for name, values in truth.items():
        assert found[name].dtype == values.dtype, name
        np.testing.assert_array_equal(found[name], values, err_msg=name)


PAIRS = [
    (layout, model)
    for layout in LAYOUTS
    for model in MODELS
    if model != "untied" or "output projection" not in layout  # which has no copy of it
]


@pytest.mark.parametrize(("layout", "model"), PAIRS)
def test_the_index_is_the_model(
    layout: str, model: str, tmp_path: Path, read_model: ReadModel
) -> None:
    truth = LAYOUTS[layout](tmp_path, MODELS[model])
    checkpoint = open_checkpoint(tmp_path)
    assert checkpoint.config == MODELS[model]
    assert_same(read_model(checkpoint), truth)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_stored_byte_is_accounted_for(layout: str, tmp_path: Path) -> None:
    """Against what the files hold: all storages of an archive, all bytes after a header."""
    LAYOUTS[layout](tmp_path)
    checkpoint = open_checkpoint(tmp_path)
    ledger = checkpoint.index.ledger
    assert ledger.unique_bytes == checkpoint.index.num_bytes
    assert ledger.stored_bytes == ledger.unique_bytes + ledger.replica_bytes + ledger.padding_bytes
    held = sum(map(weight_bytes, checkpoint.layout.files))
    assert ledger.stored_bytes == held - ("optimizer" in layout) * moment_bytes(tmp_path)


def weight_bytes(path: Path) -> int:
    if path.suffix == ".safetensors":
        raw = path.read_bytes()
        return len(raw) - 8 - int.from_bytes(raw[:8], "little")
    with zipfile.ZipFile(path) as archive:
        return sum(each.file_size for each in archive.infolist() if "/data/" in each.filename)


def moment_bytes(folder: Path) -> int:
    """Two fp32 moments for every stored fp16 element of a flat parameter."""
    version_bytes = 2
    without = folder / "without"
    LAYOUTS["raw"](without)
    return sum(4 * (weight_bytes(path) - version_bytes) for path in without.iterdir())


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_evidence_is_in_sentences(layout: str, tmp_path: Path) -> None:
    LAYOUTS[layout](tmp_path)
    evidence = open_checkpoint(tmp_path).layout.evidence
    assert len(set(evidence)) == len(evidence) >= 2
    assert all("\n" not in sentence and " " in sentence for sentence in evidence)


@pytest.mark.slow
def test_one_model_is_the_same_in_all_layouts(tmp_path: Path, read_model: ReadModel) -> None:
    """The law that makes fingerprints possible, for all layouts of one dtype."""
    models = {}
    for layout, write in LAYOUTS.items():
        write(tmp_path / layout)
        models[layout] = read_model(open_checkpoint(tmp_path / layout))
        models[layout].pop("decoder.version", None)
    first = models.pop("raw")
    for layout, model in models.items():
        if "fp32" not in layout and "bf16" not in layout:
            assert_same(model, first)


FORMS = st.builds(
    MetaseqForm,
    fused=st.booleans(),
    wrapping=st.sampled_from([1, 2, 3, "root"]),
    shapes=st.sampled_from(["tuple", "list", "size"]),
    version=st.sampled_from(["vector", "scalar", "absent"]),
    arguments=st.sampled_from(["namespace", "dict", "dictconfig", "args"]),
    optimizer_state=st.booleans(),
    output_copy=st.sampled_from(["none", "copy", "view"]),
)
CONFIGS = st.builds(
    lambda layers, narrow, **sizes: replace(
        TINY, num_layers=6 * layers, embedding_size=4 if narrow else 16, **sizes
    ),
    layers=st.integers(1, 2),
    narrow=st.booleans(),
    pre_norm=st.booleans(),
    max_positions=st.integers(1, 9),
    vocab_size=st.sampled_from([4, 12, 28]),
)


@pytest.mark.slow
@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(form=FORMS, config=CONFIGS, tp_size=st.sampled_from([1, 2, 4]), fsdp_size=st.integers(0, 9))
def test_any_combination(
    form: MetaseqForm,
    config: OPTConfig,
    tp_size: int,
    fsdp_size: int,
    tmp_path_factory: pytest.TempPathFactory,
    read_model: ReadModel,
) -> None:
    """Every way to write it that a real checkpoint could combine; no shards: consolidated."""
    folder = tmp_path_factory.mktemp("any")
    if fsdp_size:
        truth = write_tiny_checkpoint(
            folder, config, tp_size=tp_size, fsdp_size=fsdp_size, form=form
        )
    else:
        truth = write_tiny_parts(folder, config, tp_size=tp_size, form=form)
    checkpoint = open_checkpoint(folder)
    assert checkpoint.config == config
    assert_same(read_model(checkpoint), truth)


@pytest.mark.parametrize("layout", ["one file", "bin", "raw, one rank"])
def test_torch_reads_what_the_writers_write(layout: str, tmp_path: Path) -> None:
    """The truth that all tests here compare with is torch's too."""
    truth = LAYOUTS[layout](tmp_path)
    [path] = (path for path in tmp_path.iterdir() if path.suffix in {".pt", ".bin"})
    content = torch.load(path, weights_only=False)
    model = content.get("model", content)
    total = sum(values.size for values in truth.values())
    assert sum(value.numel() for value in model.values()) == total
    for name, value in model.items():
        known = truth.get(name.removeprefix("model."))
        if known is not None:
            np.testing.assert_array_equal(value.numpy(), known)
