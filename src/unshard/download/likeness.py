"""Whether a file that another tool left is the server's, where no manifest tells."""

from __future__ import annotations

import re

from unshard.download.ask import ask
from unshard.download.content import content_range, refusal, strong_etag
from unshard.download.session import Session
from unshard.manifest import Digest

_MD5 = re.compile(r'"([0-9a-f]{32})"')
"""S3's ETag of an object that was uploaded in one piece and is encrypted with no key of KMS; of
several pieces it has a `-` in it. Where it is something else it fits no file here."""


def digest_on_server(session: Session, name: str, num_bytes: int) -> Digest | None:
    """What the file `name` hashes to by the server's word; None where it does not say, or has one
    of another length than `num_bytes`.

    Raises:
        LinkRefusedError, TransferError, InterruptedTransferError, CancelledError: as `ask`, and
            if the server does not give the file.
    """
    with ask(session, name, {"Range": "bytes=0-0"}) as response:
        if response.status not in (200, 206, 416):
            raise refusal(name, response, session.link.current)
        md5, place = _MD5.fullmatch(strong_etag(response) or ""), content_range(response)
        size = place[2] if place else response.content_length
    return Digest("md5", md5[1]) if md5 and size == num_bytes else None
