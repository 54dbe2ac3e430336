"""What a reader says of an input that it does not take."""

from __future__ import annotations

from collections.abc import Callable

from unshard.errors import UnshardError


def refusal(read: Callable[[], object], otherwise: str = "") -> str:
    """Why `read` refused, or `otherwise` when it did not."""
    try:
        read()
    except UnshardError as error:
        return error.message
    return otherwise
