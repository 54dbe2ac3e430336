"""Fixtures that every area uses."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings

from unshard.testing.tiny_checkpoint import Array, write_tiny_checkpoint


def pytest_configure() -> None:
    """Tests send SIGINT to their children, who would inherit that it is ignored where a script
    started pytest in the background. As many processes as cores run tests: threads of each that
    meet at barriers would wait for each other's time slices."""
    settings.register_profile("unshard", deadline=None)  # other tests take time meanwhile
    settings.load_profile("unshard")
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def raw(tmp_path: Path) -> tuple[Path, dict[str, Array]]:
    """A raw 2 x 3 checkpoint and the whole tensors it must give back."""
    folder = tmp_path / "raw"
    return folder, write_tiny_checkpoint(folder)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)
