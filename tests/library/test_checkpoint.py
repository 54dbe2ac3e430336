"""An opened checkpoint is a mapping; one rank's share of it is what Megatron's would be."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
import torch

import unshard
from unshard.errors import CheckpointError, UnknownTensorError, UsageError
from unshard.library import read
from unshard.testing.tiny_checkpoint import TINY, write_tiny_checkpoint

FC2 = "decoder.layers.1.fc2.weight"


def test_it_is_a_mapping_in_model_order(model, folder):
    checkpoint = unshard.open(folder)
    expected = [name for name in model.truth if name in checkpoint]
    assert set(model.truth) - set(expected) <= {"decoder.version"}
    assert sorted(checkpoint) == sorted(expected)
    assert len(checkpoint) == len(list(checkpoint)) == len(checkpoint.values())
    assert next(iter(checkpoint)) == "decoder.embed_tokens.weight"
    assert checkpoint.get("decoder.layers.9.fc1.weight") is None
    assert 3 not in checkpoint
    assert checkpoint.config == TINY


def test_repr_says_the_layout(model):
    folder = model.folders["raw"]
    assert repr(unshard.open(folder)) == (
        f"<LazyCheckpoint {folder}: 37 tensors, metaseq-raw, 2 tensor-parallel x 3 FSDP, 6 files>"
    )


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("model.decoder.layers.1.fc2.weight", f"here it is '{FC2}'"),
        ("decoder.layers.1.self_attn.qkv_proj.weight", "k_proj, v_proj, q_proj"),
        ("fc2", "iterate over the checkpoint"),
        (7, "iterate over the checkpoint"),
    ],
)
def test_a_wrong_name_is_a_key_error_that_helps(model, name, hint):
    with pytest.raises(KeyError) as error:
        unshard.open(model.folders["raw"])[name]
    assert isinstance(error.value, UnknownTensorError)
    assert str(error.value).endswith(f"has no tensor {name!r}")
    assert hint in error.value.hint
    assert error.value.__notes__ == [f"hint: {error.value.hint}"]


def test_fingerprint_and_diff_are_the_commands(model, tmp_path):
    first, second = (unshard.open(model.folders[name]) for name in ("raw", "safetensors"))
    assert first.fingerprint() == second.fingerprint()
    assert first.diff(second) == []
    write_tiny_checkpoint(tmp_path, seed=1)
    assert first.diff(unshard.open(tmp_path))


def test_nothing_is_read_before_it_is_asked_for(model, counted_reads):
    checkpoint = unshard.open(model.folders["raw"])
    with counted_reads() as count:
        part = checkpoint[FC2][3:5]
        checkpoint.local(1, 2)
        assert count.num_bytes == 0
        part.numpy()
    assert count.num_bytes == part.nbytes


def num_open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_threads_share_a_checkpoint_and_leave_no_file_open(model, folder):
    checkpoint = unshard.open(folder)
    open_before = num_open_files()

    def slices_are_right(seed: int) -> bool:
        random = np.random.default_rng(seed)
        names = random.choice(sorted(checkpoint), 40)
        rows = [int(random.integers(len(checkpoint[name]))) for name in names]
        return all(
            np.array_equal(checkpoint[name][row], model.truth[name][row])
            for name, row in zip(names, rows, strict=True)
        )

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(slices_are_right, range(8)))
    assert num_open_files() == open_before


def merged(parts: list[np.ndarray], whole: np.ndarray) -> np.ndarray:
    """Numpy's own answer to which ranks' parts make `whole`."""
    if parts[0].shape == whole.shape:
        assert all(np.array_equal(part, parts[0]) for part in parts)
        return parts[0]
    axis = 0 if parts[0].shape[0] != whole.shape[0] else 1
    return np.concatenate(parts, axis)


@pytest.mark.parametrize("tp_size", [1, 2, 4])
def test_ranks_make_the_model(model, folder, tp_size):
    ranks = [unshard.load_state_dict(folder, rank, tp_size) for rank in range(tp_size)]
    assert list(ranks[0]) == list(unshard.open(folder))
    for name, first in ranks[0].items():
        assert first.dtype == torch.float16
        assert first.is_contiguous()
        whole = model.truth[name]
        found = merged([rank[name].numpy() for rank in ranks], whole)
        np.testing.assert_array_equal(found, whole, err_msg=name)
    split = {name for name, first in ranks[0].items() if first.shape != model.truth[name].shape}
    assert len(split) == (0 if tp_size == 1 else 1 + TINY.num_layers * 10)


@pytest.mark.parametrize("tp_size", [1, 2, 4])
def test_a_rank_reads_its_own_bytes(model, folder, tp_size, counted_reads):
    local = unshard.open(folder).local(tp_size - 1, tp_size)
    with patch.object(read, "GAP_BYTES", 0), counted_reads() as count:
        for tensor in local.values():
            tensor.numpy()
    assert count.num_bytes == sum(tensor.nbytes for tensor in local.values())


def test_the_ranks_of_the_files_read_no_byte_beside(model, counted_reads):
    """As many ranks as parts: gaps or not, each reads its own part once."""
    local = unshard.open(model.folders["consolidated"]).local(1, 2)
    with counted_reads() as count:
        for tensor in local.values():
            tensor.numpy()
    assert count.num_bytes == sum(tensor.nbytes for tensor in local.values())


def test_hugging_face_names(model):
    state = unshard.load_state_dict(model.folders["raw"], names="huggingface")
    assert "model.decoder.final_layer_norm.weight" in state
    assert not any("version" in name for name in state)
    with pytest.raises(UsageError, match="unknown names 'fairseq'"):
        unshard.load_state_dict(model.folders["raw"], names="fairseq")


@pytest.mark.slow
def test_transformers_takes_the_state_dict(model):
    from transformers import OPTConfig, OPTForCausalLM

    config = OPTConfig(
        vocab_size=TINY.vocab_size, hidden_size=TINY.hidden_size, ffn_dim=TINY.ffn_dim,
        num_hidden_layers=TINY.num_layers, num_attention_heads=TINY.num_heads,
        max_position_embeddings=TINY.max_positions, word_embed_proj_dim=TINY.hidden_size,
    )  # fmt: skip
    state = unshard.load_state_dict(model.folders["raw"], names="huggingface")
    loaded = OPTForCausalLM(config).load_state_dict(state, strict=False)
    assert loaded.missing_keys in ([], ["lm_head.weight"])  # tied to the embedding
    assert loaded.unexpected_keys == []


@pytest.mark.parametrize(
    ("tp_rank", "tp_size", "words"),
    [(2, 2, "no rank 2 of 2"), (-1, 2, "no rank -1"), (0, 0, "no rank 0 of 0"), (0, 8, "4 heads")],
)
def test_a_rank_that_cannot_be(model, tp_rank, tp_size, words):
    with pytest.raises(UsageError, match=words):
        unshard.load_state_dict(model.folders["raw"], tp_rank, tp_size)


def test_a_dimension_that_does_not_divide(tmp_path):
    write_tiny_checkpoint(tmp_path, replace(TINY, vocab_size=57), tp_size=1)
    with pytest.raises(CheckpointError, match=r"embed_tokens.*does not divide by 2"):
        unshard.open(tmp_path).local(0, 2)


def python(code: str, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code, *arguments],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_import_is_light_and_names_everything():
    code = (
        "import sys, unshard; assert not hasattr(unshard, 'nothing');"
        "print([m for m in ('numpy', 'torch', 'click') if m in sys.modules], dir(unshard))"
    )
    names = ["LazyCheckpoint", "LazyTensor", "__version__", "load_state_dict", "open"]
    names.append("to_transformers")
    assert python(code).strip() == f"[] {names}"


def test_without_torch_arrays_work_and_tensors_say_what_to_install(model):
    code = (
        "import sys; sys.modules['torch'] = None; import unshard\n"
        f"weight = unshard.open(sys.argv[1])[{FC2!r}]; print(weight.numpy().shape)\n"
        "try: weight.torch()\n"
        "except unshard.errors.UsageError as error: print(error)"
    )
    shape, error = python(code, str(model.folders["raw"])).splitlines()
    assert shape == "(16, 24)"
    assert error == "this needs the package torch, which is not installed"


def test_a_path_a_pattern_and_a_file_open(model):
    folder: Path = model.folders["safetensors"]
    for source in (folder, str(folder), f"{folder}/*.safetensors", folder / "model.safetensors"):
        assert len(unshard.open(source)) == 36
