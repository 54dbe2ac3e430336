"""What metaseq's commands write, against numpy's own answer, read back by torch."""

from __future__ import annotations

import zipfile
from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch_files import Content, add_optimizer, change, load, same

from unshard.dtypes import BFLOAT16, FLOAT16, FLOAT32, DType
from unshard.errors import CheckpointError
from unshard.execute.run import run_plan
from unshard.formats.torch_zip import TorchFile, read_torch_file
from unshard.plan.copy_plan import CopyPlan
from unshard.plan.reshard_fsdp import FsdpOptions, plan_reshard_fsdp
from unshard.plan.reshard_mp import MpOptions, plan_reshard_mp
from unshard.testing.tiny_checkpoint import Array, write_tiny_checkpoint

TORCH_DTYPES = {FLOAT16: torch.float16, BFLOAT16: torch.bfloat16, FLOAT32: torch.float32}


def shards(folder: Path, part: int = 0) -> list[Path]:
    found = folder.glob(f"checkpoint_last-model_part-{part}-shard*.pt")
    return sorted(found, key=lambda path: int(path.stem.rsplit("shard", 1)[1]))


def write(plan: CopyPlan, folder: Path) -> list[Content]:
    return [load(path) for path in run_plan(plan, folder, sync=False, claim=False)]


def opened(paths: list[Path]) -> list[TorchFile]:
    return [read_torch_file(path) for path in paths]


def reshard_fsdp(paths: list[Path], folder: Path, options: FsdpOptions) -> list[Content]:
    names = [f"s-model_part-0-shard{rank}.pt" for rank in range(options.num_output_shards)]
    return write(plan_reshard_fsdp("test", opened(paths), names, options), folder)


def reshard_mp(paths: list[Path], folder: Path, options: MpOptions) -> list[Content]:
    names = [f"s-model_part-{rank}.pt" for rank in range(options.num_output_parts)]
    return write(plan_reshard_mp("test", opened(paths), names, options), folder)


@pytest.fixture
def trained(tmp_path: Path) -> Path:
    """A raw part of five shards with an optimizer's state; every unit has padding."""
    folder = tmp_path / "trained"
    write_tiny_checkpoint(folder, tp_size=1, fsdp_size=5)
    change(shards(folder), add_optimizer)
    return folder


def storages(path: Path) -> list[int]:
    with zipfile.ZipFile(path) as archive:
        return [each.file_size for each in archive.infolist() if "/data/" in each.filename]


# reshard_fsdp


def test_unflattened_tensors_are_views_of_one_storage_for_each_unit(
    raw: tuple[Path, dict[str, Array]], tmp_path: Path
) -> None:
    [content] = reshard_fsdp(shards(raw[0], 1), tmp_path / "out", FsdpOptions())
    model = content["model"]
    assert list(model)[-1] == "decoder.version"
    units = [model["decoder.embed_tokens.weight"], model["decoder.layers.1.fc1.weight"]]
    for tensor in units:
        assert tensor.is_contiguous()
    owners = {tensor.untyped_storage().data_ptr() for tensor in model.values()}
    assert len(owners) == len(storages(tmp_path / "out/s-model_part-0-shard0.pt")) == 4
    whole = raw[1]["decoder.layers.1.fc2.weight"]
    np.testing.assert_array_equal(model["decoder.layers.1.fc2.weight"], np.split(whole, 2, 1)[1])


def test_everything_beside_the_weights_is_the_first_shards(trained: Path, tmp_path: Path) -> None:
    [content] = reshard_fsdp(shards(trained), tmp_path, FsdpOptions())
    first = load(shards(trained)[0])
    others = [
        key for key in first if key not in ("model", "shard_metadata", "last_optimizer_state")
    ]
    assert list(content) == ["model", "shard_metadata", "last_optimizer_state", *others]
    assert all(content[key] == first[key] for key in (*others, "shard_metadata"))


@pytest.mark.parametrize("count", [1, 2, 3, 5, 124])
def test_flat_shards_and_moments_are_cut_alike(count: int, trained: Path, tmp_path: Path) -> None:
    """As the trainer would have saved them with that many ranks, padding and all."""
    truth = tmp_path / "truth"
    write_tiny_checkpoint(truth, tp_size=1, fsdp_size=count)
    change(shards(truth), add_optimizer)
    options = FsdpOptions(num_output_shards=count, unflatten_weights=False)
    found = reshard_fsdp(shards(trained), tmp_path / "out", options)
    for content, path in zip(found, shards(truth), strict=True):
        expected = load(path)
        assert content["model"].keys() == expected["model"].keys()
        for name, tensor in expected["model"].items():
            assert torch.equal(content["model"][name], tensor), name
        for key in ("shard_metadata", "last_optimizer_state"):
            assert same(content[key], expected[key]), key


@pytest.mark.slow
@settings(max_examples=8, deadline=None)
@given(counts=st.lists(st.integers(1, 9), min_size=1, max_size=3))
def test_any_way_of_shards_is_the_direct_one(
    counts: list[int], tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("way")
    write_tiny_checkpoint(folder, tp_size=1, fsdp_size=3)
    change(shards(folder), add_optimizer)
    paths = shards(folder)
    [direct] = reshard_fsdp(paths, folder / "direct", FsdpOptions())
    for number, count in enumerate(counts):
        options = FsdpOptions(num_output_shards=count, unflatten_weights=False)
        reshard_fsdp(paths, folder / str(number), options)
        paths = [folder / f"{number}/s-model_part-0-shard{rank}.pt" for rank in range(count)]
    [last] = reshard_fsdp(paths, folder / "last", FsdpOptions())
    assert same(last["model"], direct["model"])
    assert same(last["last_optimizer_state"], direct["last_optimizer_state"])


@pytest.mark.parametrize("dtype", [FLOAT32, BFLOAT16, FLOAT16])
def test_weights_are_cast_as_torch_casts_them(dtype: DType, trained: Path, tmp_path: Path) -> None:
    """The original fails to, with an optimizer's state; that stays as exact as it was."""
    [plain] = reshard_fsdp(shards(trained), tmp_path / "plain", FsdpOptions())
    [found] = reshard_fsdp(shards(trained), tmp_path / "cast", FsdpOptions(output_dtype=dtype))
    for name, tensor in plain["model"].items():
        assert same(found["model"][name], tensor.type(TORCH_DTYPES[dtype])), name
    assert same(found["last_optimizer_state"], plain["last_optimizer_state"])


def test_the_optimizer_can_be_left_out(trained: Path, tmp_path: Path) -> None:
    [content] = reshard_fsdp(shards(trained), tmp_path, FsdpOptions(skip_optimizer_state=True))
    assert "last_optimizer_state" not in content


def test_moments_of_another_length_are_refused(trained: Path, tmp_path: Path) -> None:
    def shorten(content: Content) -> None:
        state = content["last_optimizer_state"]["state"][1]
        state["exp_avg"] = state["exp_avg"][:-1].clone()

    change(shards(trained), shorten)
    with pytest.raises(CheckpointError, match="last_optimizer_state/1/exp_avg: has"):
        reshard_fsdp(shards(trained), tmp_path, FsdpOptions())


def test_the_data_loaders_state_goes_only_where_it_needs_metaseq(
    trained: Path, tmp_path: Path
) -> None:
    options = FsdpOptions(drop_metaseq_req=True)
    [kept] = reshard_fsdp(shards(trained), tmp_path / "a", options)
    assert kept["extra_state"]["train_iterator"] == {"epoch": 1}
    change(
        shards(trained),
        lambda content: content["extra_state"]["train_iterator"].update(tokenization_cache=1),
    )
    [dropped] = reshard_fsdp(shards(trained), tmp_path / "b", options)
    assert dropped["extra_state"] == {**kept["extra_state"], "train_iterator": None}


def test_tensors_in_the_training_state_are_carried_along(trained: Path, tmp_path: Path) -> None:
    """Views of one storage stay views of one storage; a step may be a tensor too."""
    random = torch.arange(16, dtype=torch.uint8)

    def add(content: Content) -> None:
        content["extra_state"]["rng"] = {"all": random, "some": random[4:8]}
        for state in content["last_optimizer_state"]["state"].values():
            state["step"] = torch.tensor(7.0)

    change(shards(trained), add)
    [content] = reshard_fsdp(shards(trained), tmp_path, FsdpOptions())
    found = content["extra_state"]["rng"]
    assert torch.equal(found["all"], random)
    assert found["some"].tolist() == [4, 5, 6, 7]
    assert found["some"].untyped_storage().data_ptr() == found["all"].untyped_storage().data_ptr()
    assert content["last_optimizer_state"]["state"][2]["step"].tolist() == 7.0


# reshard_mp


def unflattened(folder: Path, out: Path, tp_size: int) -> list[Path]:
    paths = []
    for part in range(tp_size):
        name = f"u-model_part-{part}.pt"
        plan = plan_reshard_fsdp("test", opened(shards(folder, part)), [name], FsdpOptions())
        paths += run_plan(plan, out, sync=False, claim=False)
    return paths


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize(("start", "end"), [(1, 1), (1, 4), (2, 4), (4, 1), (4, 2)])
def test_parts_are_as_the_trainer_would_have_split_them(
    start: int, end: int, fused: bool, tmp_path: Path
) -> None:
    write_tiny_checkpoint(tmp_path / "raw", tp_size=start, fsdp_size=2, fused=fused)
    write_tiny_checkpoint(tmp_path / "truth", tp_size=end, fsdp_size=1, fused=fused)
    parts = unflattened(tmp_path / "raw", tmp_path / "parts", start)
    truth = [load(path)["model"] for path in unflattened(tmp_path / "truth", tmp_path / "t", end)]
    found = reshard_mp(parts, tmp_path / "out", MpOptions(end))
    assert all(same(content["model"], model) for content, model in zip(found, truth, strict=True))
    for content in found:
        assert list(content) == [
            "model", "cfg", "extra_state", "optimizer_history", "args", "shard_metadata",
        ]  # fmt: skip
        assert content["args"] is None
        assert content["cfg"]["model"].model_parallel_size == end
    sizes = storages(tmp_path / "out/s-model_part-0.pt")
    assert len(sizes) == len(found[0]["model"])


def test_parts_that_were_merged_are_flattened_with_their_true_shapes(tmp_path: Path) -> None:
    """`reshard_mp` leaves the shapes of the old number of parts in shard_metadata."""
    write_tiny_checkpoint(tmp_path / "raw", tp_size=2, fsdp_size=1)
    write_tiny_checkpoint(tmp_path / "truth", tp_size=1, fsdp_size=3)
    parts = unflattened(tmp_path / "raw", tmp_path / "parts", 2)
    reshard_mp(parts, tmp_path / "one", MpOptions(1))
    options = FsdpOptions(num_output_shards=3, unflatten_weights=False)
    found = reshard_fsdp([tmp_path / "one/s-model_part-0.pt"], tmp_path / "out", options)
    for content, path in zip(found, shards(tmp_path / "truth"), strict=True):
        expected = load(path)
        assert content["shard_metadata"] == expected["shard_metadata"]
        for name, tensor in expected["model"].items():
            assert torch.equal(content["model"][name], tensor), name


@pytest.mark.parametrize("form", ["namespace", "dict", "args", "nothing"])
def test_the_number_of_parts_is_set_wherever_it_is_said(form: str, tmp_path: Path) -> None:
    """The original takes a Namespace in cfg only."""

    def reform(content: Content) -> None:
        arguments = vars(content["cfg"]["model"])
        if form == "dict":
            content["cfg"]["model"] = dict(arguments)
        elif form == "args":
            del content["cfg"]
            content["args"] = Namespace(**arguments)
        elif form == "nothing":
            del content["cfg"]

    write_tiny_checkpoint(tmp_path / "raw", tp_size=2, fsdp_size=1)
    parts = unflattened(tmp_path / "raw", tmp_path / "parts", 2)
    change(parts, reform)
    [content] = reshard_mp(parts, tmp_path / "out", MpOptions(1))
    found = {
        "namespace": lambda: content["cfg"]["model"].model_parallel_size,
        "dict": lambda: content["cfg"]["model"]["model_parallel_size"],
        "args": lambda: content["args"].model_parallel_size,
        "nothing": lambda: 1 if content["cfg"] is content["args"] is None else 0,
    }
    assert found[form]() == 1


def test_gates_split_like_the_first_linear_layer(tmp_path: Path) -> None:
    """The original drops them without a word."""
    name = "decoder.layers.0.activation_fn.gate.weight"
    whole = torch.randn(24, 16).half()
    write_tiny_checkpoint(tmp_path / "raw", tp_size=2, fsdp_size=1)
    parts = unflattened(tmp_path / "raw", tmp_path / "parts", 2)
    for path, gate in zip(parts, whole.split(12), strict=True):
        change([path], lambda content, gate=gate: content["model"].update({name: gate.clone()}))
    found = reshard_mp(parts, tmp_path / "out", MpOptions(4))
    assert torch.equal(torch.cat([content["model"][name] for content in found]), whole)


def test_an_unknown_tensor_is_named(tmp_path: Path) -> None:
    write_tiny_checkpoint(tmp_path / "raw", tp_size=2, fsdp_size=1)
    parts = unflattened(tmp_path / "raw", tmp_path / "parts", 2)
    change(parts, lambda content: content["model"].update({"decoder.adapter": torch.zeros(3)}))
    with pytest.raises(CheckpointError, match=r"splits decoder\.adapter is unknown"):
        reshard_mp(parts, tmp_path / "out", MpOptions(1))


def test_parts_that_do_not_divide(tmp_path: Path) -> None:
    """The original shares out 56 rows as 19, 19 and 18."""
    write_tiny_checkpoint(tmp_path / "raw", tp_size=2, fsdp_size=1)
    parts = unflattened(tmp_path / "raw", tmp_path / "parts", 2)
    with pytest.raises(CheckpointError, match="does not divide by 3"):
        reshard_mp(parts, tmp_path / "out", MpOptions(3))
