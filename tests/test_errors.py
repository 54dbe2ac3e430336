"""Every error travels whole to another process: type, message, hint and what else it knows."""

from __future__ import annotations

import pickle
from collections.abc import Iterator

import pytest

from unshard import errors
from unshard.errors import FormatError, RequestError, UnshardError


def kinds() -> Iterator[type[UnshardError]]:
    for kind in vars(errors).values():
        if isinstance(kind, type) and issubclass(kind, UnshardError):
            yield kind


def made(kind: type[UnshardError]) -> UnshardError:
    if issubclass(kind, FormatError):
        return kind("a.pt", "is cut short", hint="fetch it again")
    if issubclass(kind, RequestError):
        return kind("too long", param="prompt", code="context", hint="cut it")
    return kind("it failed", hint="do it again")


@pytest.mark.parametrize("kind", list(kinds()), ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_pickled_and_back(kind: type[UnshardError], protocol: int) -> None:
    error = made(kind)
    found = pickle.loads(pickle.dumps(error, protocol))
    assert type(found) is kind
    assert found.args == error.args
    assert str(found) == str(error)
    assert vars(found) == vars(error)
    assert found.__notes__ == [f"hint: {error.hint}"]
