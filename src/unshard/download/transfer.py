"""One object over as many requests as it takes, never mixed with another object."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

from unshard.download.ask import ask
from unshard.download.content import (
    HEAD_BYTES,
    check_head,
    check_headers,
    content_range,
    refusal,
    strong_etag,
)
from unshard.download.disk import no_space
from unshard.download.journal import Begun
from unshard.download.partial import Partial
from unshard.download.session import Session
from unshard.download.transport import InterruptedTransferError, Response, UnreachableError
from unshard.errors import TransferError

FIRST_CONTACT_ATTEMPTS = 3
"""A host that never accepted a connection is given up sooner than one that failed later."""


class Transfer:
    """Brings the file `name` into `partial`.

    A range is only ever asked of an object known by a strong ETag, and only a 206 with
    that ETag and exactly the missing bytes is appended; anything else starts anew.
    """

    def __init__(self, session: Session, name: str, partial: Partial) -> None:
        self._session = session
        self._name = name
        self._partial = partial
        self._object: Begun | None = None

    def resume(self) -> None:
        """Take over what an earlier run left, if the journal knows what it begins."""
        begun = self._session.journal.begun(self._name)
        stored_bytes = self._partial.stored_bytes()
        if begun and begun.etag and 0 < stored_bytes <= begun.size_bytes:
            self._object = begun
            self._session.meter.file_size(self._name, begun.size_bytes)
            with self._session.checking(self._name) as advance:
                self._partial.resume(advance)
        elif stored_bytes:
            self._partial.restart()

    def run(self) -> None:
        """Ask until all bytes are there; failures count while they bring nothing new.

        Raises:
            TransferError: the server does not give the file, or `retry.attempts` ran out.
            LinkRefusedError, NoSpaceError, DestinationError: no other file will do better.
            CancelledError: the session was stopped.
        """
        failures, furthest = 0, self._partial.num_bytes
        while not self._is_complete:
            try:
                self._ask()
            except InterruptedTransferError as error:
                if self._partial.num_bytes > furthest:
                    failures, furthest = 0, self._partial.num_bytes
                failures += 1
                self._pause(error, failures)

    def restart(self, why: str) -> None:
        """Give up what has arrived, and say why."""
        self._session.meter.note(f"{self._name}: {why}")
        self._session.meter.advance(-self._partial.num_bytes)
        self._partial.restart()
        self._object = None

    @property
    def _is_complete(self) -> bool:
        return self._object is not None and self._partial.num_bytes == self._object.size_bytes

    def _pause(self, problem: InterruptedTransferError, failures: int) -> None:
        session = self._session
        session.check()
        if not session.transport.has_connected and failures >= FIRST_CONTACT_ATTEMPTS:
            raise UnreachableError(
                problem.message, hint="is the link's host right, and this machine online?"
            )
        if failures >= session.retry.attempts:
            raise TransferError(
                f"{self._name}: given up after {failures} attempts: {problem.message}",
                hint="run the same command again: it continues from here",
            )
        delay_s = session.retry.delay_s(failures, problem.retry_after_s)
        if session.transport.has_connected:  # before that, all files would say the same
            session.meter.note(f"{self._name}: {problem.message}; again in {delay_s:.0f} s")
        session.sleep(delay_s)

    def _ask(self) -> None:
        """One request and as much of its answer as comes."""
        begun = self._object if self._partial.num_bytes else None
        headers: dict[str, str] = {}
        if begun and begun.etag:
            headers["Range"] = f"bytes={self._partial.num_bytes}-"
            headers["If-Range"] = begun.etag
        elif begun:
            self.restart("the server gives no ETag to continue by; starting it anew")
        with ask(self._session, self._name, headers) as response:
            if response.status == 200:
                self._begin(response)
            elif begun and response.status == 206 and self._continues(begun, response):
                self._keep(response.chunks)
            elif begun and response.status in (206, 416):
                self.restart("the server cannot continue it; starting it anew")
                raise InterruptedTransferError("the answer did not fit what is there")
            else:
                raise refusal(self._name, response, self._session.link.current)

    def _begin(self, response: Response) -> None:
        """Take a whole object, but touch nothing before its first bytes look right."""
        begun = Begun(check_headers(self._name, response), strong_etag(response))
        head = _read_head(response.chunks)
        check_head(self._name, head)
        if self._partial.num_bytes:
            came_again = begun == self._object
            self.restart(
                "the server ignores ranges; starting it anew"
                if came_again
                else "has changed on the server; starting it anew"
            )
        self._check_space(begun.size_bytes)
        self._object = begun
        self._session.meter.file_size(self._name, begun.size_bytes)
        self._session.journal.begin(self._name, begun)
        self._keep(iter([head]))
        self._keep(response.chunks)

    def _continues(self, begun: Begun, response: Response) -> bool:
        """Whether a 206 brings all the rest of exactly the object `begun`."""
        start, size = self._partial.num_bytes, begun.size_bytes
        return (
            check_headers(self._name, response) == size - start
            and content_range(response) == (start, size - 1, size)
            and strong_etag(response) == begun.etag
        )

    def _keep(self, chunks: Iterator[bytes]) -> None:
        with self._session.meter.connection(self._name) as connection:
            for chunk in chunks:
                self._session.check()
                self._partial.append(chunk)
                connection.received(len(chunk))
                if self._session.rate:
                    self._session.sleep(self._session.rate.wait_s(len(chunk)))

    def _check_space(self, size_bytes: int) -> None:
        free_bytes = shutil.disk_usage(self._session.directory).free
        if size_bytes > free_bytes:
            raise no_space(
                f"{self._name}: needs {size_bytes} bytes, and {self._session.directory} "
                f"has {free_bytes} free"
            )


def _read_head(chunks: Iterator[bytes]) -> bytes:
    """At least `HEAD_BYTES` from the front of `chunks`, or all there are."""
    head = b""
    while len(head) < HEAD_BYTES and (chunk := next(chunks, b"")):
        head += chunk
    return head
