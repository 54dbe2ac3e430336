"""Generated pages: written with UNSHARD_UPDATE_DOCS=1, compared without."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest


def _held(page: Path, text: str) -> None:
    if os.environ.get("UNSHARD_UPDATE_DOCS"):
        page.parent.mkdir(exist_ok=True)
        page.write_text(text)
    else:
        assert page.read_text() == text, f"{page.name}: run it with UNSHARD_UPDATE_DOCS=1"


@pytest.fixture
def held() -> Callable[[Path, str], None]:
    """Asserts that a page is this text, or makes it so."""
    return _held
