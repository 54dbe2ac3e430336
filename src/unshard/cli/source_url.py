"""Where a command finds its URL when the arguments do not hold it."""

from __future__ import annotations

import os
import sys

from unshard import releases
from unshard.errors import UsageError

URL_VARIABLE = "UNSHARD_URL"
GIVE_IT = f"give it in single quotes, as `-` with stdin, or in {URL_VARIABLE}"


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


def from_environment() -> str | None:
    """The link that is kept out of the list of processes."""
    return os.environ.get(URL_VARIABLE) or None
