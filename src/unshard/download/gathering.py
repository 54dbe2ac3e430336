"""Small reads joined into larger ones: TLS hands over its records of 16 KiB one by one."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator

GATHER_BYTES = 2**18
GATHER_S = 0.5


def gathered(
    pieces: Iterable[bytes], clock: Callable[[], float] = time.monotonic
) -> Iterator[bytes]:
    """The same bytes in chunks of `GATHER_BYTES` or more, or of what `GATHER_S` seconds brought.

    Each chunk costs a write and a call of the meter, whatever its size. What had
    come when `pieces` raises is handed over before the error is.
    """
    waiting: list[bytes] = []
    num_bytes, since = 0, 0.0
    try:
        for piece in pieces:
            since = since if waiting else clock()
            waiting.append(piece)
            num_bytes += len(piece)
            if num_bytes >= GATHER_BYTES or clock() - since >= GATHER_S:
                yield b"".join(waiting)
                waiting, num_bytes = [], 0
    except Exception:
        if waiting:
            yield b"".join(waiting)
        raise
    if waiting:
        yield b"".join(waiting)
