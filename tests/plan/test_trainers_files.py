"""What is planned is what the trainer would have saved, had it run on those ranks."""

from __future__ import annotations

import re
import struct
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from written import opened_archive, read, storages_of

from unshard.dtypes import BFLOAT16, FLOAT16, FLOAT32, DType
from unshard.errors import CheckpointError
from unshard.execute.run import run_plan
from unshard.formats.pickle_encode import encode_pickle
from unshard.formats.records import Global, PersistentId
from unshard.formats.torch_zip import TorchFile, read_torch_file
from unshard.index.build import open_checkpoint
from unshard.index.optimizer_state import read_optimizer_state
from unshard.plan.copy_plan import CopyPlan
from unshard.plan.metaseq_target import plan_metaseq
from unshard.plan.reshard_fsdp import FsdpOptions, plan_reshard_fsdp
from unshard.plan.reshard_mp import MpOptions, plan_reshard_mp
from unshard.testing.tiny_archive import view
from unshard.testing.tiny_checkpoint import write_tiny_checkpoint
from unshard.testing.tiny_hugging_face import HuggingFaceForm, write_tiny_hugging_face
from unshard.testing.tiny_metaseq import MetaseqForm
from unshard.testing.tiny_parts import write_tiny_parts

Grid = tuple[int, int]
FORMS: list[tuple[dict[str, Any], Any, Grid, Grid]] = [
    # the form, layers per unit in the source, its grid of ranks, the target's
    ({"optimizer_state": True}, 1, (2, 3), (4, 2)),
    ({"optimizer_state": True, "fused": False}, "root", (1, 2), (2, 3)),
    ({"optimizer_state": True, "dtype": FLOAT32, "arguments": "dict"}, 2, (4, 1), (1, 5)),
    ({"dtype": BFLOAT16, "arguments": "dictconfig"}, 1, (2, 1), (1, 1)),
    ({"dtype": FLOAT16, "arguments": "args"}, "root", (1, 1), (2, 4)),
]


def carried_out(plan: CopyPlan, folder: Path) -> list[Path]:
    plan.check()
    return run_plan(plan, folder, sync=False, claim=False)


def raw_files(folder: Path, grid: Grid, **form: Any) -> list[Path]:
    write_tiny_checkpoint(folder, tp_size=grid[0], fsdp_size=grid[1], form=MetaseqForm(**form))
    return sorted(folder.iterdir())


def opened(paths: Sequence[Path]) -> list[TorchFile]:
    return [read_torch_file(path) for path in paths]


@pytest.mark.parametrize(("form", "wrapping", "start", "end"), FORMS)
def test_flat_files(
    form: dict[str, Any], wrapping: Any, start: Grid, end: Grid, tmp_path: Path
) -> None:
    """Weights, metadata, arguments and moments, from any grid of ranks and units to any other."""
    raw_files(tmp_path / "raw", start, **form, wrapping=wrapping)
    truth = raw_files(tmp_path / "truth", end, **form)
    source = open_checkpoint(tmp_path / "raw")
    optimizer = read_optimizer_state(source) if "optimizer_state" in form else None
    plan = plan_metaseq(source, end[0], fsdp_size=end[1], flat=True, optimizer=optimizer)
    found = carried_out(plan, tmp_path / "out")
    for one, other in zip(found, truth, strict=False):  # dict.txt comes behind them
        assert (one.name, read(one)) == (other.name, read(other))
    assert [path.name for path in found[len(truth) :]] == ["dict.txt"]


@pytest.mark.parametrize(("form", "start", "end"), [({}, (2, 3), 4), ({"fused": False}, (4, 1), 1)])
def test_unflattened_parts(form: dict[str, Any], start: Grid, end: int, tmp_path: Path) -> None:
    """The tensors of a unit are views of one storage, and the moments of one part are whole."""
    raw_files(tmp_path / "raw", start, **form, optimizer_state=True)
    truth = raw_files(tmp_path / "truth", (end, 1), **form, optimizer_state=True)
    write_tiny_parts(tmp_path / "parts", tp_size=end, form=MetaseqForm(**form))
    source = open_checkpoint(tmp_path / "raw")
    plan = plan_metaseq(source, end, optimizer=read_optimizer_state(source))
    for found, raw in zip(carried_out(plan, tmp_path / "out"), truth, strict=False):
        part = tmp_path / "parts" / found.name
        assert storages_of(found) == storages_of(part)
        content, whole = dict(read(found)), dict(read(raw))
        assert dict(content["model"]) == dict(dict(read(part))["model"])
        assert content | {"model": None} == whole | {"model": None}


def carry_a_tensor(path: Path, value: int) -> None:
    """Puts a tensor that says `value` into a file's training state."""
    content, members = opened_archive(path)
    kind = Global("torch", "LongStorage")
    storage = PersistentId(("storage", kind, "random", "cpu", 1))
    content["extra_state"]["random"] = view(storage, 0, (1,))
    members["data.pkl"] = encode_pickle(content)
    members["data/random"] = struct.pack("<q", value)
    with zipfile.ZipFile(path, "w") as archive:
        for name, raw in members.items():
            archive.writestr(f"{path.stem}/{name}", raw)


@pytest.mark.parametrize(("wrapping", "start", "end"), [(1, 3, 2), (2, 1, 4), ("root", 4, 1)])
def test_shards_that_are_cut_anew(wrapping: Any, start: int, end: int, tmp_path: Path) -> None:
    """Everything beside weights and moments is the first file's."""
    form = {"wrapping": wrapping, "optimizer_state": True}
    files = raw_files(tmp_path / "raw", (1, start), **form)
    truth = raw_files(tmp_path / "truth", (1, end), **form)
    for number, path in enumerate(files):
        carry_a_tensor(path, number)
    for path in truth:
        carry_a_tensor(path, 0)
    options = FsdpOptions(num_output_shards=end, unflatten_weights=False)
    plan = plan_reshard_fsdp("test", opened(files), [path.name for path in truth], options)
    for found, expected in zip(carried_out(plan, tmp_path / "out"), truth, strict=True):
        one, other = dict(read(found)), dict(read(expected))
        for content in (one, other):  # the version comes behind all flat parameters here
            content["model"] = dict(content["model"])
        assert one == other


def test_shards_that_are_unflattened(tmp_path: Path) -> None:
    files = raw_files(tmp_path / "raw", (1, 3))
    write_tiny_parts(tmp_path / "parts", tp_size=1)
    [part] = (tmp_path / "parts").iterdir()
    plan = plan_reshard_fsdp("test", opened(files), [part.name], FsdpOptions())
    [found] = carried_out(plan, tmp_path / "out")
    assert dict(read(found))["model"] == dict(read(part))["model"]
    assert storages_of(found) == storages_of(part)


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize(("start", "end"), [(2, 4), (4, 1)])
def test_parts_of_reshard_mp(start: int, end: int, fused: bool, tmp_path: Path) -> None:
    form = MetaseqForm(fused=fused)
    write_tiny_parts(tmp_path / "parts", tp_size=start, form=form)
    write_tiny_parts(tmp_path / "truth", tp_size=end, form=form, storages="tensor")
    files, truth = (sorted((tmp_path / name).iterdir()) for name in ("parts", "truth"))
    names = [path.name for path in truth]
    plan = plan_reshard_mp("test", opened(files), names, MpOptions(end))
    for found, expected in zip(carried_out(plan, tmp_path / "out"), truth, strict=True):
        content, known = dict(read(found)), dict(read(expected))
        assert storages_of(found) == storages_of(expected)
        assert {key: content[key] for key in ("model", "cfg", "extra_state")} == {
            key: known[key] for key in ("model", "cfg", "extra_state")
        }


@pytest.mark.parametrize(("more", "less", "holder"), [(1, 0, "part-1.pt"), (0, 1, "part-0.pt")])
def test_parts_that_hold_other_tensors(more: int, less: int, holder: str, tmp_path: Path) -> None:
    write_tiny_parts(tmp_path)
    paths = sorted(tmp_path.iterdir())
    files = opened(paths)
    model = files[less].content["model"]
    del model["decoder.layers.1.fc1.bias"]
    assert len(files[more].content["model"]) > len(model)
    names = [path.name for path in paths]
    problem = rf"only .*{re.escape(holder)} of the parts has a tensor decoder\.layers\.1\.fc1"
    with pytest.raises(CheckpointError, match=problem):
        plan_reshard_mp("test", files, names, MpOptions(2))


@pytest.mark.parametrize("dtype", [FLOAT16, BFLOAT16, FLOAT32])
def test_from_hugging_face(dtype: DType, tmp_path: Path) -> None:
    """The version that its files lack is 3, and the arguments are the trainer's own."""
    write_tiny_hugging_face(tmp_path / "hf", form=HuggingFaceForm(dtype))
    tokenizer = {"vocab": b"{}\n", "merges": b"#version: 0.2\n"}
    for name, content in zip(("vocab.json", "merges.txt"), tokenizer.values(), strict=True):
        (tmp_path / "hf" / name).write_bytes(content)
    truth = raw_files(tmp_path / "truth", (2, 3), dtype=dtype)
    plan = plan_metaseq(open_checkpoint(tmp_path / "hf"), 2, fsdp_size=3)
    found = carried_out(plan, tmp_path / "out")
    for one, other in zip(found, truth, strict=False):
        content, known = dict(read(one)), dict(read(other))
        assert one.name == other.name
        assert content["model"] == known["model"]
        assert content["shard_metadata"] == known["shard_metadata"]
        (kind, _, said, *_), (_, _, expected, *_) = (
            dict(each["cfg"])["model"] for each in (content, known)
        )
        assert kind == "argparse.Namespace"
        assert dict(said) == dict(expected)
    *_, vocab, merges, _ = found
    assert (vocab.name, vocab.read_bytes()) == ("gpt2-vocab.json", tokenizer["vocab"])
    assert (merges.name, merges.read_bytes()) == ("gpt2-merges.txt", tokenizer["merges"])
