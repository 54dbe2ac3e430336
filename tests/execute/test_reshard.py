"""Reshards: nothing lost, nothing changed, nothing half done."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from flipping import flip
from safetensors.torch import load_file, save_file

from unshard.dtypes import FLOAT32
from unshard.errors import CheckpointError, DestinationError, FormatError, NoSpaceError, UsageError
from unshard.execute import run
from unshard.execute.blocks import Buffers
from unshard.execute.copy import Copier, TaskResult
from unshard.execute.diff import diff
from unshard.execute.fingerprint import fingerprint
from unshard.execute.journal import Journal
from unshard.execute.run import run_plan
from unshard.execute.tasks import CopyTask
from unshard.index.build import open_checkpoint
from unshard.plan.metaseq_target import plan_metaseq
from unshard.plan.safetensors_target import plan_safetensors
from unshard.testing.tiny_checkpoint import Array, write_tiny_checkpoint
from unshard.testing.tiny_hugging_face import write_tiny_hugging_face

Raw = tuple[Path, dict[str, Array]]


def merge(parts: list[Array], whole: Array) -> Array:
    """Numpy's own answer to which parts make `whole`: replicated, by rows or by columns."""
    if parts[0].shape == whole.shape:
        assert all(np.array_equal(part, parts[0]) for part in parts)
        return parts[0]
    axis = 0 if parts[0].shape[0] != whole.shape[0] else 1
    return np.concatenate(parts, axis)


def load_parts(paths: list[Path]) -> dict[str, Array]:
    """Merges consolidated parts with torch and numpy alone, fused weights split."""
    models = [torch.load(path, weights_only=False)["model"] for path in paths]
    merged: dict[str, list[Array]] = {}
    for name in models[0]:
        pieces = [model[name].numpy() for model in models]
        if "qkv_proj" in name:
            for number, letter in enumerate("kvq"):
                merged[name.replace("qkv_proj", f"{letter}_proj")] = [
                    np.split(piece, 3)[number] for piece in pieces
                ]
        else:
            merged[name] = pieces
    return merged  # type: ignore[return-value]  # merged by the caller, who knows the shapes


@pytest.mark.parametrize("tp_size", [None, 1, 2, 4])
def test_metaseq_parts_read_by_torch_are_the_model(raw: Raw, tmp_path: Path, tp_size: int) -> None:
    folder, truth = raw
    paths = run_plan(plan_metaseq(open_checkpoint(folder), tp_size), tmp_path / "out")
    weights, files = [p for p in paths if p.suffix == ".pt"], paths[-1:]
    assert files[0].name == "dict.txt"
    assert [path.name for path in weights] == [
        f"reshard-model_part-{rank}.pt" for rank in range(tp_size or 2)
    ]
    found: dict[str, Any] = load_parts(weights)
    assert found.keys() == truth.keys()
    for name, whole in truth.items():
        np.testing.assert_array_equal(merge(found[name], whole), whole, err_msg=name)


def test_safetensors_read_by_the_library_are_the_model(raw: Raw, tmp_path: Path) -> None:
    folder, truth = raw
    run_plan(plan_safetensors(open_checkpoint(folder)), tmp_path / "out")
    found = load_file(tmp_path / "out/model.safetensors")
    expected = {
        f"model.{name}".replace("decoder.layer_norm", "decoder.final_layer_norm"): values
        for name, values in truth.items()
        if name != "decoder.version"
    }
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        np.testing.assert_array_equal(found[name].numpy(), values, err_msg=name)


def test_every_layout_has_one_fingerprint(raw: Raw, tmp_path: Path) -> None:
    folder, _ = raw
    original = open_checkpoint(folder)
    run_plan(plan_metaseq(original), tmp_path / "tp2")
    run_plan(plan_metaseq(open_checkpoint(tmp_path / "tp2"), 4), tmp_path / "tp4")
    run_plan(plan_metaseq(open_checkpoint(tmp_path / "tp4"), 1), tmp_path / "tp1")
    run_plan(plan_safetensors(open_checkpoint(tmp_path / "tp1"), 1000), tmp_path / "hf")
    layouts = [open_checkpoint(tmp_path / name) for name in ("tp2", "tp4", "tp1", "hf")]
    assert len(layouts[-1].layout.files) > 1
    expected = fingerprint(original.index)
    for layout in layouts:
        assert fingerprint(layout.index) == expected
        assert diff(original.index, layout.index) == []


def test_there_and_back_is_the_same_file(raw: Raw, tmp_path: Path) -> None:
    """TP 2 -> 1 -> 2 gives what 2 -> 2 through another path gives, byte for byte."""
    start = open_checkpoint(raw[0])
    run_plan(plan_metaseq(start, 1), tmp_path / "one")
    run_plan(plan_metaseq(open_checkpoint(tmp_path / "one"), 2), tmp_path / "two")
    run_plan(plan_metaseq(start, 4), tmp_path / "four")
    run_plan(plan_metaseq(open_checkpoint(tmp_path / "four"), 2), tmp_path / "again")
    for name in ("reshard-model_part-0.pt", "reshard-model_part-1.pt"):
        assert (tmp_path / "two" / name).read_bytes() == (tmp_path / "again" / name).read_bytes()


def test_one_flipped_bit_changes_fingerprint_and_diff(raw: Raw, tmp_path: Path) -> None:
    original = open_checkpoint(raw[0])
    before = fingerprint(original.index)
    run_plan(plan_safetensors(original), tmp_path / "hf")
    chunk = original.index["decoder.layers.1.fc1.weight"].chunks[1]
    flip(Path(chunk.ref.ranges[0].path), chunk.ref.ranges[0].offset + 4)
    after = fingerprint(open_checkpoint(raw[0]).index)
    changed = {name for name in before.tensors if before.tensors[name] != after.tensors[name]}
    assert changed == {"decoder.layers.1.fc1.weight"}
    assert before.model != after.model
    [found] = diff(open_checkpoint(raw[0]).index, open_checkpoint(tmp_path / "hf").index)
    assert found.name == "decoder.layers.1.fc1.weight"
    row = chunk.offsets[0]
    assert found.what.startswith(f"first at index ({row}, 2): ")


def test_copies_that_disagree_are_refused(raw: Raw, tmp_path: Path) -> None:
    """A replicated tensor is stored by every rank; metaseq's script only logs a difference."""
    checkpoint = open_checkpoint(raw[0])
    replica = checkpoint.index["decoder.layers.0.fc2.bias"].replicas[0]
    flip(Path(replica.ranges[0].path), replica.ranges[0].offset)
    with pytest.raises(CheckpointError, match=r"fc2\.bias: the copy in .*model_part-1"):
        run_plan(plan_safetensors(checkpoint), tmp_path / "out")
    assert not list((tmp_path / "out").glob("*.safetensors"))


def test_config_and_tokenizer_go_along(raw: Raw, tmp_path: Path) -> None:
    (raw[0] / "gpt2-vocab.json").write_text("{}")
    (raw[0] / "gpt2-merges.txt").write_text("#version: 0.2\n")
    run_plan(plan_safetensors(open_checkpoint(raw[0])), tmp_path / "hf")
    assert (tmp_path / "hf/merges.txt").read_text() == "#version: 0.2\n"
    config = json.loads((tmp_path / "hf/config.json").read_text())
    assert config["num_attention_heads"] == 4
    assert config["torch_dtype"] == "float16"


def test_a_failed_write_leaves_nothing_visible(raw: Raw, tmp_path: Path) -> None:
    checkpoint = open_checkpoint(raw[0])
    plan = plan_safetensors(checkpoint)
    victim = Path(checkpoint.layout.files[4])
    os.truncate(victim, 2000)
    with pytest.raises(FormatError, match=r"shard1\.pt: ends before byte \d+, inside tensor"):
        run_plan(plan, tmp_path / "out")
    assert not list((tmp_path / "out").glob("[!.]*model*"))


def test_a_second_run_writes_only_what_is_missing(
    raw: Raw, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = plan_metaseq(open_checkpoint(raw[0]))
    first, second, _ = run_plan(plan, tmp_path / "out")
    kept = first.stat().st_mtime_ns
    content = second.read_bytes()
    second.unlink()
    run_plan(plan, tmp_path / "out")
    assert first.stat().st_mtime_ns == kept
    assert second.read_bytes() == content


def test_files_of_something_else_are_not_overwritten(raw: Raw, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "config.json").write_text("mine")
    plan = plan_safetensors(open_checkpoint(raw[0]))
    with pytest.raises(DestinationError, match=r"config\.json exists"):
        run_plan(plan, out)
    assert [path.name for path in out.iterdir()] == ["config.json"]
    assert (out / "config.json").read_text() == "mine"
    run_plan(plan, out, overwrite=True)
    assert json.loads((out / "config.json").read_text())["model_type"] == "opt"


def test_output_over_its_own_input_is_refused(raw: Raw, tmp_path: Path) -> None:
    run_plan(plan_metaseq(open_checkpoint(raw[0])), tmp_path / "parts")
    again = plan_metaseq(open_checkpoint(tmp_path / "parts"))
    with pytest.raises(DestinationError, match="one of the files to read"):
        run_plan(again, tmp_path / "parts", overwrite=True)


def test_overwrite_deletes_no_file_that_is_read(raw: Raw, tmp_path: Path) -> None:
    """The folder's `unshard.json` names the files of the reshard before: now they are read."""
    run_plan(plan_safetensors(open_checkpoint(raw[0])), tmp_path / "hf")
    before = (tmp_path / "hf/model.safetensors").read_bytes()
    plan = plan_metaseq(open_checkpoint(tmp_path / "hf"), 1)
    with pytest.raises(DestinationError, match="one of the files to read"):
        run_plan(plan, tmp_path / "hf", overwrite=True)
    assert (tmp_path / "hf/model.safetensors").read_bytes() == before


def test_overwrite_deletes_nothing_outside_the_folder(raw: Raw, tmp_path: Path) -> None:
    other, out = tmp_path / "other", tmp_path / "out"
    other.touch()
    out.mkdir()
    (out / "unshard.json").write_text(json.dumps({"files": ["../other", str(other)]}))
    run_plan(plan_safetensors(open_checkpoint(raw[0])), out, overwrite=True)
    assert other.exists()


def test_no_tensor_is_cast_to_lie_beside_another(tmp_path: Path) -> None:
    write_tiny_hugging_face(tmp_path / "hf")
    tensors = load_file(tmp_path / "hf/model.safetensors")
    name = "model.decoder.layers.0.self_attn.q_proj.weight"
    tensors[name] = tensors[name].float()
    save_file(tensors, tmp_path / "hf/model.safetensors", {"format": "pt"})
    checkpoint = open_checkpoint(tmp_path / "hf")
    with pytest.raises(CheckpointError, match=r"qkv_proj.*fp16 and fp32.*cannot be one tensor"):
        plan_metaseq(checkpoint, 1)
    run_plan(plan_metaseq(checkpoint, 1, dtype=FLOAT32), tmp_path / "out")


def test_a_part_of_several_dtypes(tmp_path: Path) -> None:
    """Some trainers keep layer norms in fp32: no two dtypes may share a storage."""
    write_tiny_checkpoint(tmp_path / "raw", tp_size=1, fsdp_size=1)
    [part, _] = run_plan(plan_metaseq(open_checkpoint(tmp_path / "raw")), tmp_path / "part")
    content = torch.load(part, weights_only=False)
    name = "decoder.layers.0.final_layer_norm.weight"
    for dtype in (torch.float32, torch.bfloat16):
        content["model"][name] = content["model"][name].to(dtype)
        mixed = tmp_path / f"mixed-{dtype}"
        mixed.mkdir()
        torch.save(content, mixed / part.name)
        [again, _] = run_plan(plan_metaseq(open_checkpoint(mixed)), tmp_path / f"again-{dtype}")
        found = torch.load(again, weights_only=False)["model"]
        assert found.keys() == content["model"].keys()
        for key, tensor in content["model"].items():
            assert found[key].dtype == tensor.dtype
            assert torch.equal(found[key], tensor), key


def test_overwrite_writes_again_what_looks_done(raw: Raw, tmp_path: Path) -> None:
    plan = plan_safetensors(open_checkpoint(raw[0]))
    weights = run_plan(plan, tmp_path / "out")[0]
    whole = weights.read_bytes()
    flip(weights, len(whole) - 1)
    run_plan(plan, tmp_path / "out", overwrite=True)
    assert weights.read_bytes() == whole


def test_a_source_that_changes_meanwhile(
    raw: Raw, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = open_checkpoint(raw[0])
    run_task = Copier.run

    def touch_and_run(copier: Copier, task: CopyTask, buffers: Buffers) -> TaskResult:
        os.utime(checkpoint.layout.files[0])
        return run_task(copier, task, buffers)

    monkeypatch.setattr(Copier, "run", touch_and_run)
    with pytest.raises(CheckpointError, match="changed during the reshard"):
        run_plan(plan_safetensors(checkpoint), tmp_path / "out")


def test_two_reshards_do_not_mix_in_one_folder(raw: Raw, tmp_path: Path) -> None:
    checkpoint, out = open_checkpoint(raw[0]), tmp_path / "out"
    run_plan(plan_safetensors(checkpoint, 1000), out)
    whole = plan_safetensors(checkpoint)
    for other in (whole, plan_metaseq(checkpoint)):
        with pytest.raises(DestinationError, match="holds another reshard"):
            run_plan(other, out)
    run_plan(whole, out, overwrite=True)
    assert [path.name for path in out.glob("*.safetensors")] == ["model.safetensors"]
    assert diff(checkpoint.index, open_checkpoint(out).index) == []


def test_weights_of_somebody_else_stay_alone(raw: Raw, tmp_path: Path) -> None:
    """Least of all does an export go in among the raw files themselves."""
    plan = plan_safetensors(open_checkpoint(raw[0]))
    for overwrite in (False, True):
        with pytest.raises(DestinationError, match=r"shard0\.pt exists, and no reshard wrote it"):
            run_plan(plan, raw[0], overwrite=overwrite)
    assert len(list(raw[0].iterdir())) == 6


def test_changed_sources_are_noticed(raw: Raw, tmp_path: Path) -> None:
    plan = plan_safetensors(open_checkpoint(raw[0]))
    run_plan(plan, tmp_path / "out")
    os.utime(open_checkpoint(raw[0]).layout.files[0])
    with pytest.raises(DestinationError, match="source files have changed"):
        run_plan(plan, tmp_path / "out")
    run_plan(plan, tmp_path / "out", overwrite=True)


def test_one_run_at_a_time(raw: Raw, tmp_path: Path) -> None:
    plan = plan_safetensors(open_checkpoint(raw[0]))
    (tmp_path / "out").mkdir()
    with (
        Journal(plan, tmp_path / "out"),
        pytest.raises(DestinationError, match="another reshard is writing"),
    ):
        run_plan(plan, tmp_path / "out")
    run_plan(plan, tmp_path / "out")


def test_a_file_in_place_of_the_folder(raw: Raw, tmp_path: Path) -> None:
    (tmp_path / "out").write_text("mine")
    with pytest.raises(DestinationError, match="is a file, not a folder"):
        run_plan(plan_safetensors(open_checkpoint(raw[0])), tmp_path / "out")


def test_full_disk_is_noticed_first(
    raw: Raw, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    space = os.statvfs(tmp_path)
    full = os.statvfs_result((space.f_bsize, space.f_frsize, 1, 0, 0, *tuple(space)[5:]))
    monkeypatch.setattr(run.os, "statvfs", lambda _: full)
    with pytest.raises(NoSpaceError, match="bytes are to be written, 0 are free"):
        run_plan(plan_safetensors(open_checkpoint(raw[0])), tmp_path / "out")


def test_heads_stay_whole(tmp_path: Path) -> None:
    write_tiny_checkpoint(tmp_path, tp_size=1, fsdp_size=1)
    with pytest.raises(UsageError, match="3 tensor-parallel parts: the model has 4 heads"):
        plan_metaseq(open_checkpoint(tmp_path), 3)
