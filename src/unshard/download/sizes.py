"""How large files are, before any of them is fetched.

A presigned GET link does not answer HEAD, so one byte of each file is asked for: the
`Content-Range` of the answer says how long the file is.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from unshard.download.pieces import NoRangesError, Pieces


def file_sizes(pieces: Pieces, names: Sequence[str], *, workers: int) -> dict[str, int]:
    """The size in bytes of each of `names`, by one request of one byte each.

    A server that does not answer ranges begins to send the whole file; its length is believed
    and the connection closed.

    Raises:
        TransferError, LinkRefusedError: as `Pieces.read`; `pieces` reads no more then.
    """
    pool = ThreadPoolExecutor(workers, thread_name_prefix="sizes")
    try:
        return dict(zip(names, pool.map(lambda name: _size(pieces, name), names), strict=True))
    except BaseException:
        pieces.stop()
        raise
    finally:
        pool.shutdown(cancel_futures=True)


def _size(pieces: Pieces, name: str) -> int:
    try:
        return pieces.read(name, 0, 1).size_bytes
    except NoRangesError as error:
        return error.size_bytes
