"""One object over as many requests as it takes, never mixed with another object."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from unshard.download.ask import ask
from unshard.download.assembly import Assembly, Request
from unshard.download.content import (
    check_headers,
    checked_head,
    content_range,
    refusal,
    strong_etag,
)
from unshard.download.likeness import digest_on_server
from unshard.download.partway import Begun
from unshard.download.response import InterruptedTransferError, Response, UnreachableError
from unshard.download.session import Session
from unshard.download.shares import Share
from unshard.errors import LinkRefusedError, TransferError
from unshard.manifest import Digest

FIRST_CONTACT_ATTEMPTS = 3
"""A host that never accepted a connection is given up sooner than one that failed later."""
_LOOK_AGAIN_S = 0.2


@dataclass(frozen=True, slots=True)
class Found:
    """A file, `num_bytes` long, that may be the beginning of what is to be fetched; or, where
    `may_be_all` is set, all of it."""

    path: Path
    num_bytes: int
    may_be_all: bool = False


class Transfer:
    """Brings the file `name` into `assembly`: one thread runs it, others may help.

    A range is only ever asked of an object known by a strong ETag, and only a 206 with
    that ETag and exactly the missing bytes is kept. To whoever runs it, anything else is a
    reason to start anew; a helper leaves, and touches nothing.
    """

    def __init__(
        self, session: Session, name: str, assembly: Assembly, found: Found | None = None
    ) -> None:
        self._session = session
        self._name = name
        self._assembly = assembly
        self._found = found
        self._has_ranges = True
        self._is_confirmed = False
        self._rests_until = 0.0
        self.has_adopted = False
        self.expected: Digest | None = None
        """By the server's word, what the file that was found has to hash to: then nothing needs
        to be fetched."""

    def resume(self) -> None:
        """Take over what an earlier run left."""
        self._assembly.resume()
        if begun := self._assembly.begun:
            self._session.meter.file_size(self._name, begun.size_bytes)
            self._session.meter.advance(self._assembly.num_bytes)

    def run(self) -> None:
        """Ask until all bytes are there; failures count while they bring nothing new.

        Raises:
            TransferError: the server does not give the file, or `retry.attempts` ran out.
            LinkRefusedError, NoSpaceError, DestinationError: no other file will do better.
            CancelledError: the session was stopped.
        """
        failures, furthest = 0, self._assembly.num_bytes
        while not self._assembly.is_complete and not self.expected:
            try:
                self._ask()
            except InterruptedTransferError as error:
                if self._assembly.num_bytes > furthest:
                    failures, furthest = 0, self._assembly.num_bytes
                failures += 1
                self._pause(error, failures)

    def help(self) -> bool:
        """Bring one share, from another thread. False: that makes no sense again.

        Raises:
            NoSpaceError, DestinationError: no other file will do better.
            CancelledError: the session was stopped.
        """
        for failures in range(1, self._session.retry.attempts + 1):
            share = self._assembly.take() if self.share_bytes() else None
            if share is None:
                return True
            start = share.position
            try:
                return self._bring(share)
            except InterruptedTransferError as error:
                delay_s = self._session.retry.delay_s(failures, error.retry_after_s)
                if error.retry_after_s is not None:
                    self._rest(delay_s)
            except (TransferError, LinkRefusedError):
                return False  # whoever runs the transfer meets it too, and tells
            finally:
                self._assembly.give_back(share)
            self._session.sleep(delay_s)
            if share.position > start:
                return True
        return False

    def share_bytes(self) -> int:
        """What one more connection could bring; 0: nothing, now."""
        if not self._is_confirmed or not self._has_ranges or time.monotonic() < self._rests_until:
            return 0
        return self._assembly.share_bytes()

    def _rest(self, seconds: float) -> None:
        """Have nobody help so long: else each in turn would ask at once what has just failed."""
        self._rests_until = time.monotonic() + seconds

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
        session.budget.spend(problem)
        delay_s = session.retry.delay_s(failures, problem.retry_after_s)
        self._rest(delay_s)
        if session.transport.has_connected:  # before that, all files would say the same
            session.meter.note(f"{self._name}: {problem.message}; again in {delay_s:.0f} s")
        session.sleep(delay_s)

    def _restart(self, why: str) -> None:
        """Give up what has arrived, and say why."""
        self._session.meter.note(f"{self._name}: {why}")
        self._session.meter.advance(-self._assembly.num_bytes)
        self._assembly.give_up()

    def _ask(self) -> None:
        """One request and as much of its answer as comes."""
        begun = self._assembly.begun
        if self._assembly.num_bytes and begun and not begun.etag:
            self._restart("the server gives no ETag to continue by; starting it anew")
        if not self._assembly.num_bytes and self._found:
            if self._found.may_be_all:
                self._ask_what_it_is(self._found)
            else:
                self._ask_for_the_rest_of(self._found)
        elif not self._assembly.num_bytes:
            self._ask_for_all()
        elif share := self._assembly.take():
            try:
                self._ask_for(share)
            finally:
                self._assembly.give_back(share)
        else:
            self._session.check()
            self._assembly.wait(_LOOK_AGAIN_S)

    def _ask_for_all(self) -> None:
        with ask(self._session, self._name, {}) as response:
            if response.status != 200:
                raise refusal(self._name, response, self._session.link.current)
            self._begin(response)

    def _ask_what_it_is(self, found: Found) -> None:
        self.expected = digest_on_server(self._session, self._name, found.num_bytes)
        if not self.expected:
            self._session.meter.note(f"{self._name}: not known to be whole; fetching it again")
            self._found = None

    def _ask_for_the_rest_of(self, found: Found) -> None:
        """Continue a file that another tool left. That it is the beginning of this object, its
        digest has to show."""
        headers = {"Range": f"bytes={found.num_bytes}-"}
        with ask(self._session, self._name, headers) as response:
            if response.status not in (200, 206, 416):
                raise refusal(self._name, response, self._session.link.current)
            self._found = None
            if response.status == 200:
                self._begin(response)
                return
            asked, etag = content_range(response), strong_etag(response)
            if response.status == 416 or not asked or not etag:
                return  # it is as long, or longer, or cannot be continued: ask for all
            begun = Begun(asked[2], etag)
            if not self._brings(Request(begun, found.num_bytes, begun.size_bytes), response):
                return
            share = self._assembly.adopt(begun, found.path, found.num_bytes)
            self.has_adopted = True
            self._claim(begun)
            self._session.meter.note(f"{self._name}: going on after the bytes that are there")
            self._session.meter.advance(found.num_bytes)
            try:
                self._keep(share, response.chunks)
            finally:
                self._assembly.give_back(share)

    def _ask_for(self, share: Share) -> None:
        request = self._assembly.request(share)
        if request is None:
            return
        with ask(self._session, self._name, request.headers) as response:
            if response.status == 200:
                self._begin(response)
            elif response.status == 206 and self._brings(request, response):
                if not self._is_confirmed:  # only now is it sure how long the file is
                    self._claim(request.begun)
                self._keep(share, response.chunks)
            elif response.status in (206, 416):
                self._restart("the server cannot continue it; starting it anew")
                raise InterruptedTransferError("the answer did not fit what is there")
            else:
                raise refusal(self._name, response, self._session.link.current)

    def _bring(self, share: Share) -> bool:
        """Bring `share` to help. False: the server has no ranges of this file."""
        request = self._assembly.request(share)
        if request is None:
            return True
        with ask(self._session, self._name, request.headers) as response:
            if response.status == 206 and self._brings(request, response):
                self._keep(share, response.chunks)
            elif response.status in (200, 206, 416):
                self._has_ranges = False
            else:
                raise refusal(self._name, response, self._session.link.current)
        return self._has_ranges

    def _begin(self, response: Response) -> None:
        """Take a whole object, but touch nothing before its first bytes look right."""
        begun = Begun(check_headers(self._name, response), strong_etag(response))
        head = checked_head(self._name, response.chunks)
        if self._assembly.num_bytes:
            came_again = begun == self._assembly.begun
            self._has_ranges = self._has_ranges and not came_again
            self._restart(
                "the server ignores ranges; starting it anew"
                if came_again
                else "has changed on the server; starting it anew"
            )
        self._claim(begun)
        share = self._assembly.begin(begun)
        try:
            self._keep(share, chain([head], response.chunks))
        finally:
            self._assembly.give_back(share)

    def _claim(self, begun: Begun) -> None:
        """Make sure that there is space for `begun`."""
        self._session.space.claim(self._name, lambda: begun.size_bytes - self._assembly.num_bytes)
        self._session.meter.file_size(self._name, begun.size_bytes)

    def _brings(self, request: Request, response: Response) -> bool:
        """Whether a 206 brings exactly the bytes of the object that were asked for."""
        start, stop, size = request.start, request.stop, request.begun.size_bytes
        return (
            check_headers(self._name, response) == stop - start
            and content_range(response) == (start, stop - 1, size)
            and strong_etag(response) == request.begun.etag
        )

    def _keep(self, share: Share, chunks: Iterator[bytes | memoryview]) -> None:
        self._is_confirmed = True  # the server has this object still: others may help
        with self._session.meter.connection(self._name) as connection:
            try:
                for chunk in chunks:
                    self._session.check()
                    num_bytes = self._assembly.put(share, chunk)
                    connection.received(num_bytes)
                    if self._session.rate:
                        self._session.sleep(self._session.rate.wait_s(len(chunk)))
                    if not share.num_bytes or num_bytes < len(chunk):
                        return
                    self._assembly.sync_now_and_then()
                raise InterruptedTransferError("the answer ended before the length that it tells")
            finally:
                self._session.budget.earn(connection.num_bytes)
