"""What the attacks share."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path

import pytest

# The import mode of the suite leaves test folders off the path.
sys.path.insert(0, str(Path(__file__).parent))

from refusal import Refusal, refusal


@pytest.fixture
def refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Refusal:
    sandbox = tmp_path / "sandbox"
    sandbox.mkdir()
    monkeypatch.chdir(sandbox)
    return partial(refusal, sandbox)
