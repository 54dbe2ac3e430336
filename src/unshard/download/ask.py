"""Requests by a link that may die: refused ones are asked again by a fresh link."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from unshard.download.content import link_refusal
from unshard.download.session import Session
from unshard.download.transport import Response

MAX_FRESH_LINKS_REFUSED = 3
"""In a row, by one request: it is not the age of the links."""


@contextmanager
def ask(session: Session, name: str, headers: Mapping[str, str]) -> Iterator[Response]:
    """The answer to a request for the file `name`, whatever it is, but no refusal of the link.

    Raises:
        LinkRefusedError: the link is refused, and no fresh one helps.
        InterruptedTransferError, TransferError: as `Transport.get`.
        CancelledError: the session was stopped while waiting for a fresh link.
    """
    num_refused = 0
    while True:
        template, generation = session.link.held
        with session.transport.get(template, name, headers) as response:
            refusal = link_refusal(name, response, template)
            if refusal is None:
                yield response
                return
        num_refused += 1
        is_hopeless = num_refused > MAX_FRESH_LINKS_REFUSED
        if is_hopeless or not session.link.renew(
            generation, refusal.message, sleep=session.sleep, note=session.meter.note
        ):
            raise refusal
