"""Requests by a link that may die: refused ones are asked again by a fresh link."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial

from unshard.download.content import link_refusal, refusal
from unshard.download.response import InterruptedTransferError, Response
from unshard.download.session import Session
from unshard.download.url import PresignedTemplate
from unshard.errors import LinkRefusedError

MAX_FRESH_LINKS_REFUSED = 3
"""In a row, by one request: it is not the age of the links."""
_SERVED = (200, 206)


@contextmanager
def ask(session: Session, name: str, headers: Mapping[str, str]) -> Iterator[Response]:
    """The answer to a request for the file `name`, whatever it is, but no refusal of the link.

    Raises:
        LinkRefusedError: the link is refused, and no fresh one helps.
        TransferError: the file is refused, and others are not.
        InterruptedTransferError, TransferError: as `Transport.get`.
        CancelledError: the session was stopped while waiting for a fresh link.
    """
    num_refused = 0
    while True:
        template, generation = session.link.held
        doubt = session.link.doubt(generation)
        with session.transport.get(template, name, headers) as response:
            refused = link_refusal(response)
            if refused is None:
                if response.status in _SERVED:
                    doubt.serves(name)
                yield response
                return
        if not refused.is_of_link and generation == session.link.generation:
            probe = partial(_serves, session, template)
            if doubt.is_of_file(name, session.link.names, probe):
                raise refused.file_error(name)
        num_refused += 1
        error = refused.error(name, template)
        is_hopeless = num_refused > MAX_FRESH_LINKS_REFUSED
        if is_hopeless or not session.link.renew(
            generation, error.message, sleep=session.sleep, note=session.meter.note
        ):
            raise error


def _serves(session: Session, template: PresignedTemplate, name: str) -> bool:
    """Whether the server does not refuse the file `name` of `template` right now.

    Raises:
        InterruptedTransferError: it does not say.
        CancelledError: the session was stopped.
    """
    session.check()
    with session.transport.get(template, name, {"Range": "bytes=0-0"}) as response:
        if response.status in _SERVED:
            return True
        problem = refusal(name, response, template)
    if isinstance(problem, InterruptedTransferError):
        raise problem
    return not isinstance(problem, LinkRefusedError)
