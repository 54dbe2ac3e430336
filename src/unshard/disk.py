"""The disk under every output: making names and contents survive a power cut, and locks."""

from __future__ import annotations

import errno
import fcntl
import os
from pathlib import Path

_NO_LOCKS_HERE = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)
"""What file systems without locks answer: Lustre as it is mostly mounted, and some of NFS."""


def sync_directory(directory: Path) -> None:
    """Makes the names in `directory` durable: a rename survives power loss only then."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_file(path: str | Path) -> None:
    """Makes what this machine wrote to the file durable, and visible to other machines."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.fdatasync(descriptor)
    finally:
        os.close(descriptor)


def take_lock(descriptor: int) -> bool:
    """Has this process alone write the open file, until it is closed. False: the file system has
    no locks.

    Raises:
        BlockingIOError: another process has it.
        OSError: whatever else the system says.
    """
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in _NO_LOCKS_HERE:
            raise
        return False
    return True
