"""One tiny model in every layout, and a count of the bytes that reads take."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch

import pytest

from unshard.cli.main import main
from unshard.testing.tiny_checkpoint import Array, write_tiny_checkpoint

LAYOUTS = ("raw", "consolidated", "merged", "safetensors")


@dataclass(frozen=True)
class Model:
    """The same weights in several folders, and as the arrays they were made of."""

    folders: dict[str, Path]
    truth: dict[str, Array]


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    root = tmp_path_factory.mktemp("layouts")
    folders = {layout: root / layout for layout in LAYOUTS}
    truth = write_tiny_checkpoint(folders["raw"])
    for layout, options in {
        "consolidated": ["--to", "metaseq"],
        "merged": ["--to", "metaseq", "--tp", "1"],
        "safetensors": ["--to", "safetensors"],
    }.items():
        assert main(["reshard", str(folders["raw"]), str(folders[layout]), *options]) == 0
    return Model(folders, truth)


@pytest.fixture(params=LAYOUTS)
def folder(request: pytest.FixtureRequest, model: Model) -> Path:
    """Each layout in turn."""
    return model.folders[request.param]


@dataclass
class Count:
    num_bytes: int = 0


@pytest.fixture
def counted_reads() -> Callable[[], AbstractContextManager[Count]]:
    """A context that counts what `os.preadv` hands out inside."""
    return _counted_reads


@contextmanager
def _counted_reads() -> Iterator[Count]:
    count, preadv = Count(), os.preadv

    def counting(*arguments: object) -> int:
        num_bytes = preadv(*arguments)
        count.num_bytes += num_bytes
        return num_bytes

    with patch.object(os, "preadv", counting):
        yield count
