"""What every attack must meet."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

from unshard.errors import FormatError

Refusal = Callable[..., AbstractContextManager[None]]
"""`with refused(path, "why"):` around what must raise a `FormatError` that names `path`."""


@contextmanager
def refusal(sandbox: Path, path: Path, problem: str | None = None) -> Iterator[None]:
    """Expects one line of reasonable length, and `sandbox`, the current folder, still empty:
    payloads would leave the file `pwned` there."""
    with pytest.raises(FormatError, match=problem) as caught:
        yield
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    assert len(message) < len(str(path)) + 2000
    assert not list(sandbox.iterdir())
