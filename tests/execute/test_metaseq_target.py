"""Any checkpoint as metaseq files: what the trainer itself would have saved."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch_files import add_optimizer, change, load, same
from transformers import OPTConfig as HuggingFaceConfig
from transformers import OPTForCausalLM

from unshard.cli.main import main
from unshard.dtypes import BFLOAT16, FLOAT32
from unshard.errors import CheckpointError, UsageError
from unshard.execute.diff import diff
from unshard.execute.run import run_plan
from unshard.index.build import open_checkpoint
from unshard.index.optimizer_state import read_optimizer_state
from unshard.plan.metaseq_target import plan_metaseq
from unshard.plan.safetensors_target import plan_safetensors
from unshard.testing.tiny_checkpoint import Array, write_tiny_checkpoint

Raw = tuple[Path, dict[str, Array]]
VARIANTS: dict[str, dict[str, Any]] = {
    "pre-norm": {},
    "post-norm": {"do_layer_norm_before": False},
    "narrow embedding": {"word_embed_proj_dim": 8},
    "as OPT-350M": {"word_embed_proj_dim": 8, "do_layer_norm_before": False},
    "untied": {"tie_word_embeddings": False},
}
GRID = [(1, 1), (2, 3), (8, 1), (8, 3)]
LARGE_GRID = [(1, 3), (2, 1), (1, 124), (2, 124), (8, 124)]


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize(("tp_size", "fsdp_size"), [(1, 1), (1, 4), (2, 3), (4, 2), (4, 31)])
def test_raw_files_are_those_the_trainer_would_have_saved(
    tp_size: int, fsdp_size: int, fused: bool, tmp_path: Path
) -> None:
    """Weights, metadata and moments, in one pass from another grid of ranks."""
    write_tiny_checkpoint(tmp_path / "raw", tp_size=2, fsdp_size=3, fused=fused)
    truth = tmp_path / "truth"
    write_tiny_checkpoint(truth, tp_size=tp_size, fsdp_size=fsdp_size, fused=fused)
    for folder in (tmp_path / "raw", truth):
        change(folder.iterdir(), add_optimizer)
    checkpoint = open_checkpoint(tmp_path / "raw")
    plan = plan_metaseq(
        checkpoint, tp_size, fsdp_size=fsdp_size, flat=True,
        optimizer=read_optimizer_state(checkpoint),
    )  # fmt: skip
    run_plan(plan, tmp_path / "out", sync=False)
    for path in truth.iterdir():
        expected, found = load(path), load(tmp_path / "out" / path.name)
        assert found["cfg"]["model"] == expected["cfg"]["model"]
        assert list(found) == list(expected)
        for key in ("model", "shard_metadata", "last_optimizer_state", "extra_state"):
            assert same(found[key], expected[key]), (path.name, key)


def test_moments_survive_the_way_through_one_file(tmp_path: Path) -> None:
    write_tiny_checkpoint(tmp_path / "raw", tp_size=2, fsdp_size=3)
    change((tmp_path / "raw").iterdir(), add_optimizer)
    start = open_checkpoint(tmp_path / "raw")
    one = plan_metaseq(start, 1, optimizer=read_optimizer_state(start))
    run_plan(one, tmp_path / "one", sync=False)
    middle = open_checkpoint(tmp_path / "one")
    again = plan_metaseq(middle, 2, fsdp_size=3, optimizer=read_optimizer_state(middle))
    run_plan(again, tmp_path / "again", sync=False)
    for path in (tmp_path / "raw").iterdir():
        expected, found = load(path), load(tmp_path / "again" / path.name)
        assert same(found["model"], expected["model"])
        assert same(found["last_optimizer_state"], expected["last_optimizer_state"])


def test_an_optimizers_state_that_is_left_out_is_named(tmp_path: Path) -> None:
    write_tiny_checkpoint(tmp_path, tp_size=1, fsdp_size=2)
    assert plan_metaseq(open_checkpoint(tmp_path)).omissions == ()
    with pytest.raises(UsageError, match="holds no optimizer state"):
        read_optimizer_state(open_checkpoint(tmp_path))
    change(tmp_path.iterdir(), add_optimizer)
    [omission] = plan_metaseq(open_checkpoint(tmp_path)).omissions
    assert omission.name == "last_optimizer_state"


def test_moments_of_another_length_are_refused(tmp_path: Path) -> None:
    write_tiny_checkpoint(tmp_path, tp_size=1, fsdp_size=1)
    change(tmp_path.iterdir(), add_optimizer)
    [path] = tmp_path.glob("*.pt")
    content = load(path)
    state = content["last_optimizer_state"]["state"][0]
    state["exp_avg"] = torch.cat([state["exp_avg"], torch.zeros(2)])
    torch.save(content, path)
    with pytest.raises(CheckpointError, match=r"exp_avg/: has \d+ elements for a parameter"):
        read_optimizer_state(open_checkpoint(tmp_path))


@pytest.mark.parametrize("dtype", [FLOAT32, BFLOAT16])
def test_a_cast_is_torchs(raw: Raw, tmp_path: Path, dtype: Any) -> None:
    checkpoint = open_checkpoint(raw[0])
    torch_dtype = {FLOAT32: torch.float32, BFLOAT16: torch.bfloat16}[dtype]
    [path, *_] = run_plan(plan_metaseq(checkpoint, 1, dtype=dtype), tmp_path / "a", sync=False)
    for name, tensor in load(path)["model"].items():
        if "qkv" not in name:
            assert same(tensor, torch.from_numpy(raw[1][name]).to(torch_dtype)), name
    [path, *_] = run_plan(plan_safetensors(checkpoint, dtype=dtype), tmp_path / "b", sync=False)
    assert {tensor.dtype for tensor in load_file(path).values()} == {torch_dtype}


def test_shards_must_be_flat(raw: Raw) -> None:
    with pytest.raises(UsageError, match="3 FSDP shards can hold flat parameters only"):
        plan_metaseq(open_checkpoint(raw[0]), fsdp_size=3, flat=False)


# From Hugging Face


def hugging_face(folder: Path, variant: str) -> OPTForCausalLM:
    settings = {
        "hidden_size": 32, "ffn_dim": 48, "num_hidden_layers": 2, "num_attention_heads": 8,
        "vocab_size": 64, "max_position_embeddings": 21, "word_embed_proj_dim": 32,
    }  # fmt: skip
    torch.manual_seed(0)
    model = OPTForCausalLM(HuggingFaceConfig(**(settings | VARIANTS[variant]))).half().eval()
    model.save_pretrained(folder)
    return model


def round_trip(variant: str, grid: list[tuple[int, int]], tmp_path: Path) -> None:
    hugging_face(tmp_path / "hf", variant)
    start = open_checkpoint(tmp_path / "hf")
    truth = load_file(tmp_path / "hf/model.safetensors")
    if variant != "untied":
        truth.pop("lm_head.weight", None)
    for tp_size, fsdp_size in grid:
        there, back = (tmp_path / f"{way}{tp_size}x{fsdp_size}" for way in ("there", "back"))
        run_plan(plan_metaseq(start, tp_size, fsdp_size=fsdp_size), there, sync=False)
        middle = open_checkpoint(there)
        assert (middle.layout.tp_size, middle.layout.fsdp_size) == (tp_size, fsdp_size)
        assert middle.config == start.config
        assert diff(start.index, middle.index) == []
        run_plan(plan_safetensors(middle), back, sync=False)
        found = load_file(back / "model.safetensors")
        assert found.keys() == truth.keys()
        assert all(same(found[name], tensor) for name, tensor in truth.items())


@pytest.mark.parametrize("variant", VARIANTS)
def test_there_and_back_is_bit_for_bit(variant: str, tmp_path: Path) -> None:
    round_trip(variant, GRID, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("variant", VARIANTS)
def test_there_and_back_over_many_files_is_bit_for_bit(variant: str, tmp_path: Path) -> None:
    round_trip(variant, LARGE_GRID, tmp_path)


@pytest.mark.parametrize(
    ("variant", "fused"), [("pre-norm", True), ("as OPT-350M", False), ("untied", True)]
)
def test_the_least_that_metaseq_asks_for_is_said(variant: str, fused: bool, tmp_path: Path) -> None:
    hugging_face(tmp_path / "hf", variant)
    start = open_checkpoint(tmp_path / "hf")
    [path, *_] = run_plan(plan_metaseq(start, 2, fsdp_size=2), tmp_path / "out", sync=False)
    content = load(path)
    assert list(content) == [
        "cfg", "model", "criterion", "optimizer_history", "task_state", "extra_state",
        "shard_metadata",
    ]  # fmt: skip
    arguments = content["cfg"]["model"]
    assert arguments.arch == ("transformer_lm_megatron" if fused else "transformer_lm")
    assert (arguments.model_parallel_size, arguments.decoder_attention_heads) == (2, 8)
    assert arguments.share_decoder_input_output_embed == (variant != "untied")
    names = list(content["model"])
    assert names[:3] == ["flat_param_0", "decoder.version", "decoder.layers.0.flat_param_0"]
    assert content["model"]["decoder.version"].tolist() == [3.0]
    assert content["model"]["decoder.version"].dtype == torch.float16


# The command


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--to", "safetensors", "--tp", "2"], "--tp goes with --to metaseq"),
        (["--to", "safetensors", "--flat"], "--flat/--unflattened goes with --to metaseq"),
        (["--to", "safetensors", "--optimizer", "keep"], "--optimizer goes with --to metaseq"),
        (["--to", "metaseq", "--max-file-size", "1GB"], "--max-file-size goes with --to safet"),
        (["--to", "metaseq", "--tp", "3"], "the model has 4 heads"),
        (["--to", "metaseq", "--fsdp", "2", "--unflattened"], "hold flat parameters"),
        (["--to", "metaseq", "--optimizer", "keep"], "holds no optimizer state"),
    ],
)
def test_options_that_mean_nothing_are_refused(
    options: list[str], message: str, raw: Raw, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["reshard", str(raw[0]), str(tmp_path / "out"), *options]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_the_command_keeps_an_optimizers_state(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_tiny_checkpoint(tmp_path / "raw", tp_size=2, fsdp_size=1)
    change((tmp_path / "raw").iterdir(), add_optimizer)
    command = ["reshard", str(tmp_path / "raw"), "--to", "metaseq", "--tp", "1"]
    assert main([*command, str(tmp_path / "weights")]) == 0
    assert "leaves out last_optimizer_state" in capsys.readouterr().err
    assert main([*command, str(tmp_path / "all"), "--optimizer", "keep", "--dtype", "bf16"]) == 0
    content = load(tmp_path / "all/reshard-model_part-0.pt")
    assert content["model"]["decoder.version"].dtype == torch.bfloat16
    assert content["last_optimizer_state"]["state"][1]["exp_avg"].dtype == torch.float32
    assert "last_optimizer_state" not in load(tmp_path / "weights/reshard-model_part-0.pt")
