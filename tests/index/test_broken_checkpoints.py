"""Files that do not fit together are refused with the file or tensor named."""

from __future__ import annotations

import shutil
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from unshard.dtypes import FLOAT32
from unshard.errors import CheckpointError, UsageError
from unshard.formats.pickle_encode import encode_pickle
from unshard.formats.unpickle import decode_pickle
from unshard.index.build import open_checkpoint
from unshard.testing.tiny_checkpoint import TINY, Array, write_tiny_checkpoint

Raw = tuple[Path, dict[str, Array]]


def part(tp_rank: int, fsdp_rank: int) -> str:
    return f"checkpoint_last-model_part-{tp_rank}-shard{fsdp_rank}.pt"


@pytest.mark.parametrize(("tp_rank", "fsdp_rank"), [(0, 0), (1, 1), (0, 2)])
def test_missing_file_is_named(raw: Raw, tp_rank: int, fsdp_rank: int) -> None:
    (raw[0] / part(tp_rank, fsdp_rank)).unlink()
    with pytest.raises(CheckpointError, match=part(tp_rank, fsdp_rank)):
        open_checkpoint(raw[0])


def test_last_shard_missing_everywhere(raw: Raw) -> None:
    for rank in range(2):
        (raw[0] / part(rank, 2)).unlink()
    with pytest.raises(CheckpointError, match=r"shard0\.pt: flat_param_0: takes 3 FSDP shards"):
        open_checkpoint(raw[0])


def test_last_part_missing(raw: Raw) -> None:
    """Half a model looks whole by its names; its shapes say otherwise."""
    for rank in range(3):
        (raw[0] / part(1, rank)).unlink()
    with pytest.raises(
        CheckpointError, match="split over 2 tensor-parallel parts, but only 1 found"
    ):
        open_checkpoint(raw[0])


def test_shards_swapped_between_ranks(raw: Raw) -> None:
    """Their padding gives away that they are in the wrong place."""
    first, last = raw[0] / part(0, 0), raw[0] / part(0, 2)
    first.rename(raw[0] / "aside")
    last.rename(first)
    (raw[0] / "aside").rename(last)
    with pytest.raises(CheckpointError, match="padding"):
        open_checkpoint(raw[0])


def test_shard_of_another_model(raw: Raw, tmp_path: Path) -> None:
    other = tmp_path / "other"
    write_tiny_checkpoint(other, replace(TINY, ffn_dim=32))
    shutil.copy(other / part(1, 1), raw[0] / part(1, 1))
    with pytest.raises(CheckpointError, match=part(1, 1)):
        open_checkpoint(raw[0])


def test_part_of_another_dtype(raw: Raw, tmp_path: Path) -> None:
    other = tmp_path / "other"
    write_tiny_checkpoint(other, dtype=FLOAT32)
    for rank in range(3):
        shutil.copy(other / part(1, rank), raw[0] / part(1, rank))
    with pytest.raises(CheckpointError, match="part 1 is fp32"):
        open_checkpoint(raw[0])


def test_two_checkpoints_in_one_folder(raw: Raw) -> None:
    shutil.copy(raw[0] / part(0, 0), raw[0] / "checkpoint_best-model_part-0-shard0.pt")
    with pytest.raises(UsageError, match="several checkpoints"):
        open_checkpoint(raw[0])


def damaged_cfg(folder: Path, **changes: object) -> None:
    """Rewrites the first file with other training arguments."""
    path = folder / part(0, 0)
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    [pickle] = [name for name in members if name.endswith("data.pkl")]
    content = decode_pickle(members[pickle], "x")
    content["cfg"]["model"].state.update(changes)
    members[pickle] = encode_pickle(content)
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)


def shared_list(levels: int) -> list[object]:
    """2^levels elements in a few bytes: whoever prints it is lost."""
    value: list[object] = []
    for _ in range(levels):
        value = [value, value]
    return value


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"decoder_attention_heads": shared_list(10)}, "cfg says a list"),
        ({"decoder_attention_heads": True}, "cfg says a bool"),
        ({"decoder_attention_heads": 3}, r"attention_heads is 4, but .* says 3"),
        ({"activation_fn": shared_list(10)}, "activation_fn is no name"),
        ({"no_scale_embedding": False}, "embeddings are scaled"),
    ],
    ids=["list of heads", "true heads", "other heads", "list of activations", "scaled"],
)
def test_arguments_that_cannot_be(raw: Raw, changes: dict[str, object], problem: str) -> None:
    damaged_cfg(raw[0], **changes)
    with pytest.raises(CheckpointError, match=problem):
        open_checkpoint(raw[0])


def test_absurd_numbers_in_names(raw: Raw) -> None:
    """Found at once, and not by counting up to them."""
    (raw[0] / part(0, 2)).rename(raw[0] / part(0, 999999999))
    with pytest.raises(CheckpointError, match=r"missing .*shard2\.pt and 19999999\d\d more"):
        open_checkpoint(raw[0])


def test_two_layouts_in_one_folder(raw: Raw) -> None:
    (raw[0] / "model.safetensors").write_bytes(b"")
    with pytest.raises(UsageError, match=r"both \.pt files and safetensors"):
        open_checkpoint(raw[0])
    (raw[0] / "model.safetensors").unlink()
    (raw[0] / "folder.pt").mkdir()
    open_checkpoint(raw[0])


def test_folder_without_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("nothing here")
    with pytest.raises(UsageError, match="no checkpoint in this folder"):
        open_checkpoint(tmp_path)


def test_no_such_folder(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such file or folder"):
        open_checkpoint(tmp_path / "absent")
    with pytest.raises(UsageError, match="no file matches"):
        open_checkpoint(tmp_path / "*.pt")
