"""How fast a link brings bytes: a few seconds of a download whose bytes are thrown away."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field

from unshard.download.content import check_headers, refusal
from unshard.download.response import InterruptedTransferError
from unshard.download.transport import Transport
from unshard.download.url import PresignedTemplate
from unshard.errors import TransferError

LONGEST_S = 5.0
"""How long is measured at most."""
BYTES_EACH = 32 << 20
"""Asked for by each connection."""


@dataclass(frozen=True, slots=True)
class MeasuredRate:
    """What several connections together brought."""

    num_connections: int
    num_bytes: int
    elapsed_s: float
    """From the first answer to the last byte."""

    @property
    def bytes_per_s(self) -> float:
        return self.num_bytes / self.elapsed_s


def measure_rate(
    template: PresignedTemplate,
    names: Sequence[str],
    *,
    longest_s: float = LONGEST_S,
    bytes_each: int = BYTES_EACH,
) -> MeasuredRate:
    """The rate at which the first `bytes_each` bytes of all `names` come, a connection for
    each at the same time, within `longest_s` seconds.

    Raises:
        TransferError, LinkRefusedError: not one byte of a file came.
    """
    count = _Count()
    with (
        Transport(max_connections=len(names), stall_timeout_s=longest_s) as transport,
        ThreadPoolExecutor(len(names), thread_name_prefix="rate") as pool,
    ):
        reads = [pool.submit(count.read, transport, template, each, bytes_each) for each in names]
        try:
            wait(reads, timeout=longest_s)
            measured = count.measured(len(names))
        finally:
            transport.abort()
    if not measured.num_bytes:
        _raise_why(reads)
        raise TransferError(f"{names[0]}: not one byte came in {longest_s:g} s")
    return measured


def _raise_why(reads: Sequence[Future[None]]) -> None:
    try:
        for read in reads:
            read.result()
    except InterruptedTransferError as error:
        raise TransferError(error.message, hint="run the same command again") from error


@dataclass(slots=True)
class _Count:
    """The bytes of all connections."""

    num_bytes: int = 0
    began_at: float | None = None
    lock: threading.Lock = field(default_factory=threading.Lock)

    def read(
        self, transport: Transport, template: PresignedTemplate, name: str, length: int
    ) -> None:
        headers = {"Range": f"bytes=0-{length - 1}"}
        with transport.get(template, name, headers) as response:
            if response.status not in (200, 206):
                raise refusal(name, response, template)
            check_headers(name, response)
            with self.lock:
                self.began_at = self.began_at or time.monotonic()
            for chunk in response.chunks:
                with self.lock:
                    self.num_bytes += len(chunk)
                length -= len(chunk)
                if length <= 0:  # a server that knows no ranges would go on
                    return

    def measured(self, num_connections: int) -> MeasuredRate:
        with self.lock:
            elapsed_s = time.monotonic() - (self.began_at or 0)
            return MeasuredRate(num_connections, self.num_bytes, max(elapsed_s, 1e-6))
