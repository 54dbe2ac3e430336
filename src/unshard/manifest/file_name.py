"""Which names may become files in a folder of weights."""

from __future__ import annotations

PARTIAL_SUFFIX = ".partial"
"""A file whose name ends so has not arrived in full; no manifest may name one."""


def file_name_problem(name: str) -> str | None:
    """Why `name` must not become a file in a folder of weights, or None when it may.

    Names come from manifests and URLs that others wrote: one must not leave the folder,
    hide in it, or pass for the half-arrived form of another.
    """
    if "/" in name or "\\" in name:
        return f"{name[:80]!r} has a path separator"
    if not name or name.startswith("."):
        return f"{name[:80]!r} is empty or begins with a dot"
    if not name.isprintable():
        return f"{name[:80]!r} has an invisible or control character"
    if name != name.strip():
        return f"{name[:80]!r} begins or ends with a space"
    if name.endswith(PARTIAL_SUFFIX):
        return f"{name[-80:]!r} ends in {PARTIAL_SUFFIX}"
    if len((name + PARTIAL_SUFFIX).encode()) > 255:
        return f"{name[:40]!r}… is too long for a file name"
    return None
