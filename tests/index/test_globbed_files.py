"""Files of a pattern in the order of their ranks, whatever else is numbered."""

from __future__ import annotations

from pathlib import Path

import pytest

from unshard.errors import CheckpointError, UsageError
from unshard.index.globbed_files import files_by_rank


@pytest.fixture
def files(tmp_path: Path):
    def touch(*names: str) -> str:
        for name in names:
            path = tmp_path / name
            path.parent.mkdir(exist_ok=True)
            path.touch()
        return str(tmp_path / "*.pt")

    return touch


def test_ranks_are_numbers_and_the_last_counts(files) -> None:
    """Not the text, and not the number in the folder's name or in front."""
    names = [f"a-shard9-{11 - rank}-shard{rank}.pt" for rank in range(11)]
    found = files_by_rank(files(*names), "shard")
    assert [path.name for path in found] == names


def test_names_without_ranks_go_by_all_their_numbers(files) -> None:
    found = files_by_rank(files("a10.pt", "a9.pt", "a9.2.pt"), "shard")
    assert [path.name for path in found] == ["a9.pt", "a9.2.pt", "a10.pt"]


def test_one_file_of_any_rank_by_its_path(files, tmp_path: Path) -> None:
    files("a[0].pt")
    assert files_by_rank(str(tmp_path / "a[0].pt"), "shard") == (tmp_path / "a[0].pt",)


@pytest.mark.parametrize(
    ("names", "error", "message"),
    [
        ([], UsageError, "no file matches"),
        (["a-shard0.pt", "b.pt"], UsageError, r"b\.pt has no -shardN in its name; others have"),
        (["b.pt", "a-shard0.pt"], UsageError, r"b\.pt has no -shardN in its name; others have"),
        (["a-shard0.pt", "b-shard0.pt"], UsageError, "both claim shard 0"),
        (["a-shard1.pt"], CheckpointError, r"a-shard0\.pt is missing"),
        (["a-shard0.pt", "a-shard2.pt"], CheckpointError, r"a-shard1\.pt is missing"),
        (["a-shard0.pt", "a-shard1.pt", "a-shard4.pt"], CheckpointError, r"shard2\.pt is missing"),
    ],
)
def test_what_is_no_whole_row(names: list[str], error, message: str, files) -> None:
    with pytest.raises(error, match=message):
        files_by_rank(files(*names), "shard")


def test_parts_are_told_as_parts(files) -> None:
    pattern = files("a-model_part-0.pt", "b-model_part-0.pt")
    with pytest.raises(UsageError, match="both claim model_part 0"):
        files_by_rank(pattern, "model_part-")
