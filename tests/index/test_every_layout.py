"""The laws of the index, for every layout there is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from unshard.architectures.opt import OPTConfig
from unshard.index.build import open_checkpoint
from unshard.index.checkpoint import Checkpoint
from unshard.testing.layouts import LAYOUTS
from unshard.testing.tiny_model import TINY, Array

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


@pytest.mark.parametrize("config", MODELS.values(), ids=MODELS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_index_is_the_model(
    layout: str, config: OPTConfig, tmp_path: Path, read_model: ReadModel
) -> None:
    if "output projection" in layout and not config.tied_embeddings:
        pytest.skip("an untied model has no copy")
    truth = LAYOUTS[layout](tmp_path, config)
    checkpoint = open_checkpoint(tmp_path)
    assert checkpoint.config == config
    assert_same(read_model(checkpoint), truth)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_stored_byte_is_accounted_for(layout: str, tmp_path: Path) -> None:
    """Against the sizes of the files: what is neither weight, copy nor padding is metadata."""
    LAYOUTS[layout](tmp_path)
    checkpoint = open_checkpoint(tmp_path)
    ledger = checkpoint.index.ledger
    assert ledger.unique_bytes == checkpoint.index.num_bytes
    assert ledger.stored_bytes == ledger.unique_bytes + ledger.replica_bytes + ledger.padding_bytes
    size = sum(path.stat().st_size for path in checkpoint.layout.files)
    assert ledger.stored_bytes < size


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_evidence_is_in_sentences(layout: str, tmp_path: Path) -> None:
    LAYOUTS[layout](tmp_path)
    evidence = open_checkpoint(tmp_path).layout.evidence
    assert len(set(evidence)) == len(evidence) >= 2
    assert all("\n" not in sentence and " " in sentence for sentence in evidence)


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
