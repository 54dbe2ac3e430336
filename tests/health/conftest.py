"""A checkpoint large enough to have distributions."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from damage import CONFIG

from unshard.testing.tiny_checkpoint import write_tiny_checkpoint


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Raw files of 2 tensor-parallel parts x 3 FSDP shards."""
    write_tiny_checkpoint(tmp_path / "raw", CONFIG, tp_size=2, fsdp_size=3)
    return tmp_path / "raw"
