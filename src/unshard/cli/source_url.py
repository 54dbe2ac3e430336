"""Where a command finds its URL when the arguments do not hold it."""

from __future__ import annotations

import os
import sys
from difflib import get_close_matches

from unshard import releases
from unshard.errors import UsageError

URL_VARIABLE = "UNSHARD_URL"
GIVE_IT = f"give the link in single quotes, as `-` with stdin, or in {URL_VARIABLE}"


def from_argument(argument: str) -> str:
    """What `argument` stands for: `-` for the next line of stdin, the name of a public release
    for its URL, anything else for itself.

    Raises:
        UsageError: stdin has none.
    """
    if argument == "-":
        if line := sys.stdin.readline().strip():
            return line
        raise UsageError("no URL on stdin", hint="pipe the link in, on one line")
    public = releases.PUBLIC.get(argument)
    return public.url if public else argument


def release_like(name: str) -> str | None:
    """The public release that is written so, or nearly so."""
    return next(iter(get_close_matches(name.lower(), releases.PUBLIC, n=1, cutoff=0.9)), None)


def instead_of(name: str) -> str:
    """What to do where `name` was given and is no URL, and none stands in UNSHARD_URL."""
    if end := releases.BY_LINK_ONLY.get(name.lower()):
        return (
            f"Meta mails the link of {name.lower()}, which ends in {end}?…: give it in single "
            f"quotes, as `-` with stdin, or in {URL_VARIABLE}"
        )
    if name.lower() in releases.BY_LINK_ONLY:
        return (
            f"no public URL of {name.lower()} is known: give a link in single quotes, as `-` with "
            f"stdin, or in {URL_VARIABLE}; one that ends in a `*` also needs --parts or --manifest"
        )
    if alike := release_like(name):
        return f"did you mean {alike}?"
    return (
        f"give the link in single quotes, as `-` with stdin, or in {URL_VARIABLE}; or one "
        f"of {', '.join(releases.PUBLIC)}"
    )


def from_environment() -> str | None:
    """The link that is kept out of the list of processes."""
    return os.environ.get(URL_VARIABLE) or None
