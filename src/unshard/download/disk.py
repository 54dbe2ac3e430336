"""The disk under a download: its errors in our words."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from unshard.errors import DestinationError, NoSpaceError

_NO_SPACE = (errno.ENOSPC, errno.EDQUOT)


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turn the errors of the disk under `path` into ours.

    Raises:
        NoSpaceError: the disk or the quota is full.
        DestinationError: anything else.
    """
    try:
        yield
    except OSError as error:
        if error.errno in _NO_SPACE:
            raise no_space(f"{path}: {error.strerror}") from error
        if isinstance(error, FileExistsError | NotADirectoryError):
            raise DestinationError(f"{path}: is a file, not a folder") from error
        raise DestinationError(f"{path}: {error.strerror}") from error


def no_space(problem: str) -> NoSpaceError:
    return NoSpaceError(
        f"{problem}; what has arrived is kept",
        hint="make space and run the same command again: it continues from here",
    )
