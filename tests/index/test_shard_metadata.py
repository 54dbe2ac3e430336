"""shard_metadata decides where every byte belongs, so it is believed as far as it fits."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from unshard.errors import CheckpointError
from unshard.index.build import open_checkpoint
from unshard.index.checkpoint import Checkpoint
from unshard.testing.tiny_checkpoint import write_tiny_checkpoint
from unshard.testing.tiny_metaseq import MetaseqForm
from unshard.testing.tiny_model import TINY, Array
from unshard.testing.tiny_parts import write_tiny_parts

ReadModel = Callable[[Checkpoint], dict[str, Array]]
Edit = Callable[[Path, Callable[[dict[str, Any]], None]], None]


def assert_holds(found: dict[str, Array], truth: dict[str, Array]) -> None:
    assert found.keys() == truth.keys()
    for name, values in truth.items():
        np.testing.assert_array_equal(found[name], values, err_msg=name)


def units_of(content: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for unit in content["shard_metadata"]["param_metadata"]:
        yield unit["params"]["flat_param_0"]


def shared_list(levels: int) -> list[object]:
    """2^levels elements in a few bytes: whoever compares or prints it is lost."""
    value: list[object] = []
    for _ in range(levels):
        value = [value, value]
    return value


class TestShardMetadata:
    """Metadata decides where every byte belongs, so it is believed only as far as it fits."""

    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        write_tiny_checkpoint(tmp_path, tp_size=1, fsdp_size=2, name="c-shard{shard}.pt")
        return tmp_path

    @pytest.mark.parametrize("shard", [0, 1])
    @pytest.mark.parametrize(
        ("key", "value"),
        [
            ("names", shared_list(10)),
            ("names", ["a", 7]),
            ("names", []),
            ("names", {"a": 1}),
            ("names", None),
            ("shapes", shared_list(10)),
            ("shapes", [(2, -1)] * 4),
            ("shapes", [(2, 1.5)] * 4),
            ("shapes", "(2, 2)"),
            ("padding", True),
            ("padding", shared_list(10)),
        ],
    )
    def test_malformed(self, folder: Path, edit: Edit, shard: int, key: str, value: object) -> None:
        edit(
            folder / f"c-shard{shard}.pt",
            lambda content: next(units_of(content)).update({key: value}),
        )
        with pytest.raises(CheckpointError, match="shard_metadata of the root is malformed"):
            open_checkpoint(folder)

    @pytest.mark.parametrize("value", [7, "units", {"a": 1}, None])
    def test_units_that_are_no_list(self, folder: Path, edit: Edit, value: object) -> None:
        def damage(content: dict[str, Any]) -> None:
            content["shard_metadata"]["param_metadata"] = value

        edit(folder / "c-shard0.pt", damage)
        with pytest.raises(CheckpointError):
            open_checkpoint(folder)

    def test_a_tensor_that_is_named_twice(self, folder: Path, edit: Edit) -> None:
        def repeat(content: dict[str, Any]) -> None:
            names = next(units_of(content))["names"]
            names[1] = names[0]

        edit(folder / "c-shard0.pt", repeat)
        with pytest.raises(CheckpointError, match=r"names decoder\.embed_tokens\.weight twice"):
            open_checkpoint(folder)

    def test_names_that_differ_between_ranks(self, folder: Path, edit: Edit) -> None:
        def swap(content: dict[str, Any]) -> None:
            names = next(units_of(content))["names"]
            names[2], names[3] = names[3], names[2]

        edit(folder / "c-shard1.pt", swap)
        with pytest.raises(CheckpointError, match=r"shard1\.pt: flat_param_0: .* differs from"):
            open_checkpoint(folder)

    def test_one_rank_without_metadata(self, folder: Path, edit: Edit) -> None:
        edit(folder / "c-shard1.pt", lambda content: content.pop("shard_metadata"))
        with pytest.raises(CheckpointError, match=r"shard1\.pt: has no shard_metadata, unlike"):
            open_checkpoint(folder)

    def test_a_flat_parameter_that_it_does_not_mention(self, folder: Path, edit: Edit) -> None:
        for shard in range(2):
            edit(
                folder / f"c-shard{shard}.pt",
                lambda content: content["shard_metadata"]["param_metadata"].pop(),
            )
        with pytest.raises(CheckpointError, match=r"does not mention decoder\.layers\.1\.flat_"):
            open_checkpoint(folder)

    def test_a_unit_that_the_model_does_not_hold(self, folder: Path, edit: Edit) -> None:
        for shard in range(2):
            edit(
                folder / f"c-shard{shard}.pt",
                lambda content: content["model"].pop("decoder.layers.1.flat_param_0"),
            )
        with pytest.raises(CheckpointError, match="in shard_metadata, but not in the model"):
            open_checkpoint(folder)

    @pytest.mark.parametrize("fsdp_size", [1, 3])
    def test_shapes_of_another_number_of_parts(
        self, fsdp_size: int, tmp_path: Path, edit: Edit, read_model: ReadModel
    ) -> None:
        """reshard_mp leaves the old ones, and reshard_consolidated flattens by them."""
        write_tiny_checkpoint(tmp_path / "old", tp_size=4, fsdp_size=1)
        truth = write_tiny_checkpoint(tmp_path / "new", fsdp_size=fsdp_size)
        old: list[Any] = []
        edit(
            tmp_path / "old" / "checkpoint_last-model_part-0-shard0.pt",
            lambda content: old.extend(unit["shapes"] for unit in units_of(content)),
        )

        def restate(content: dict[str, Any]) -> None:
            for unit, shapes in zip(units_of(content), old, strict=True):
                unit["shapes"] = shapes

        for path in (tmp_path / "new").iterdir():
            edit(path, restate)
        checkpoint = open_checkpoint(tmp_path / "new")
        assert_holds(read_model(checkpoint), truth)
        assert any("another number of parts" in said for said in checkpoint.layout.evidence)

    @pytest.mark.parametrize(
        ("renamed", "problem"),
        [
            ("decoder.layers.0.", "is in no block of layers"),
            ("decoder.layers.0.layers.2.", "2 blocks of 3 layers make 6"),
            ("decoder.layers.5.layers.0.", "6 blocks of 2 layers make 12"),
        ],
    )
    def test_blocks_of_layers_that_do_not_add_up(
        self, renamed: str, problem: str, tmp_path: Path, edit: Edit
    ) -> None:
        form = MetaseqForm(wrapping=2)
        write_tiny_parts(tmp_path, replace(TINY, num_layers=4), tp_size=1, form=form)

        def rename(content: dict[str, Any]) -> None:
            prefix = "decoder.layers.0.layers.1."
            content["model"] = {
                name.replace(prefix, renamed): value for name, value in content["model"].items()
            }

        edit(tmp_path / "reshard-model_part-0.pt", rename)
        with pytest.raises(CheckpointError, match=problem):
            open_checkpoint(tmp_path)
