"""The original scripts' inputs and outputs, where they lie beside the repository.

The reference's generator is independent of this project; its digests are of what the original
reshard scripts wrote from the same inputs.
"""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture(scope="session")
def reference() -> Path:
    """The folder of the reference; without it the test is skipped."""
    beside = Path(__file__).parents[3] / "shared" / "oracle"
    folder = Path(os.environ.get("UNSHARD_REFERENCE", beside))
    if not folder.is_dir():
        pytest.skip("no reference data beside the repository")
    return folder


@pytest.fixture(scope="session")
def generator(reference: Path) -> ModuleType:
    """The program that makes the reference's inputs."""
    spec = importlib.util.spec_from_file_location(
        "make_checkpoint", reference / "make_checkpoint.py"
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
