"""Fixtures that every area uses."""

from __future__ import annotations

import gc
import logging
import os
import runpy
import signal
import sys
from collections.abc import Callable, Generator, Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings

from unshard.architectures.opt import KNOWN_MODELS
from unshard.index.checkpoint import Checkpoint
from unshard.index.likeness import open_by_first_file
from unshard.kernels.library import SWITCH, kernels
from unshard.releases import OPT_175B
from unshard.testing.tiny_checkpoint import Array, write_tiny_checkpoint


@pytest.hookimpl(optionalhook=True)  # tools/mutation runs without xdist
def pytest_xdist_auto_num_workers() -> int:
    """One more than there are cores: some tests wait for a server or a child."""
    return len(os.sched_getaffinity(0)) + 1


def pytest_configure() -> None:
    """Tests send SIGINT to their children, who would inherit that it is ignored where a script
    started pytest in the background. There are no fewer processes than cores: threads of each that
    meet at barriers would wait for each other's time slices. Bytecode is kept, whatever the
    environment says: workers and children would compile all files anew each time."""
    sys.dont_write_bytecode = False
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    alike = {"deadline": None, "print_blob": True}  # other tests take time meanwhile
    settings.register_profile("unshard", max_examples=30, **alike)
    settings.register_profile("thorough", max_examples=200, **alike)
    settings.load_profile("unshard")
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_collection() -> Generator[None, object, object]:
    """What the modules of the tests leave in memory stays to the end: garbage is looked for neither
    while they are imported, nor among their million objects while tests run. Three times a test,
    pytest listens to each logger that keeps its records to itself, and torch has 59 such."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()
        for name in list(logging.root.manager.loggerDict):
            if name.startswith("torch"):
                logging.getLogger(name).propagate = True


@pytest.fixture
def raw(tmp_path: Path) -> tuple[Path, dict[str, Array]]:
    """A raw 2 x 3 checkpoint and the whole tensors it must give back."""
    folder = tmp_path / "raw"
    return folder, write_tiny_checkpoint(folder)


@pytest.fixture(scope="session")
def opt_175b(tmp_path_factory: pytest.TempPathFactory) -> tuple[Checkpoint, int]:
    """OPT-175B by its first file, whose weights are a hole, and the size of that file."""
    program = runpy.run_path(str(Path(__file__).parents[1] / "benchmarks/sparse_checkpoint.py"))
    units = program["fsdp_units"](KNOWN_MODELS["OPT-175B"], 8)
    content, storages = program["rank_content"](
        KNOWN_MODELS["OPT-175B"], units, 8, fsdp_rank=0, fsdp_size=124, rank=0
    )
    folder = tmp_path_factory.mktemp("opt-175b")
    path = folder / OPT_175B.file_names[0]
    program["write_sparse_archive"](path, program["encode_pickle"](content), storages)
    return open_by_first_file("opt-175b", folder, OPT_175B.file_names), path.stat().st_size


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.fixture
def switch(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str | None], None]]:
    """Sets what the environment says of kernels; None: nothing."""

    def to(wanted: str | None) -> None:
        if wanted is None:
            monkeypatch.delenv(SWITCH, raising=False)
        else:
            monkeypatch.setenv(SWITCH, wanted)
        kernels.cache_clear()

    yield to
    kernels.cache_clear()
