"""Text that others wrote, with what may be the secret of a link taken out before it is shown."""

from __future__ import annotations

import re

_QUERY = re.compile(r"(https?:/[^\s?'\"]*)\?[^\s'\"]*[^\s'\":;,.)]", re.IGNORECASE)
"""One slash is enough: a path made of a URL has lost the other. A mark at its end is ours."""
_LOGIN = re.compile(r"(https?:/{1,2})[^\s/?'\"]*@", re.IGNORECASE)
_SIGNATURE = re.compile(
    r"\b(Expires|Policy|Signature|Key-Pair-Id|X-(?:Amz|Goog)-[a-z-]+|AWSAccessKeyId|GoogleAccessId"
    r"|sig)(=|%3D)[^\s&'\"]+",
    re.IGNORECASE,
)
"""Half a link is a secret too: a shell cuts at `&`, and a typing error takes the scheme away."""


def without_secrets(text: str) -> str:
    """`text` with `…` for the query and the login of each URL in it, and for the values of the
    fields that sign one. An address stays, so that a person knows which it was."""
    text = _LOGIN.sub(r"\1…@", _QUERY.sub(r"\1?…", text))
    return _SIGNATURE.sub(r"\1\2…", text)
