"""Reading a small JSON object that somebody else wrote: a header, a config, an index."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from unshard.errors import FormatError
from unshard.formats.regular_file import open_regular, read_exactly
from unshard.strict_json import MAX_JSON_BYTES, parse_json_object


def read_json_object(path: str | Path) -> dict[str, Any]:
    """The object in the file at `path`.

    Raises:
        FormatError: it is too large, no file, or no JSON object in UTF-8.
    """
    path = os.fspath(path)
    with open_regular(path) as descriptor:
        length = os.fstat(descriptor).st_size
        if length > MAX_JSON_BYTES:
            raise FormatError(path, f"is far too large for JSON: {length} bytes")
        raw = read_exactly(path, descriptor, length, 0)
    return parse_json_object(path, raw)
