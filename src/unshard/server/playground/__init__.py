"""The playground at `/`: a page for people, made of the files in `page/`.

It holds nothing secret and asks the API like any other client, so it is served without a key.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from importlib.resources import files
from pathlib import PurePath

from fastapi import APIRouter, Request
from starlette.exceptions import HTTPException
from starlette.responses import Response

MEDIA_TYPES = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".json": "application/json",
    ".svg": "image/svg+xml",
}
HEADERS = {
    # Nothing from elsewhere, nothing inline, and no string that becomes markup or a script.
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    # Kept, but asked about each time: a new version of the server brings its own page.
    "cache-control": "no-cache",
}
INDEX = "index.html"
FOLDER = "/playground/"
"""Where the page's other files are, in URLs."""


@dataclass(frozen=True, slots=True)
class PageFile:
    """One file as it is sent."""

    content: bytes
    media_type: str
    etag: str

    def response(self, request: Request) -> Response:
        """The file, or 304 where the client has it."""
        headers = {**HEADERS, "etag": self.etag}
        held = request.headers.get("if-none-match", "")
        if self.etag in (each.strip().removeprefix("W/") for each in held.split(",")):
            return Response(status_code=304, headers=headers)
        return Response(self.content, media_type=self.media_type, headers=headers)


def page_files() -> dict[str, PageFile]:
    """The files of the page by name."""
    found = {}
    for entry in (files(__name__) / "page").iterdir():
        content = entry.read_bytes()
        etag = f'"{hashlib.sha256(content).hexdigest()[:32]}"'
        found[entry.name] = PageFile(content, MEDIA_TYPES[PurePath(entry.name).suffix], etag)
    return found


def playground() -> APIRouter:
    """The routes of the page and its files."""
    router = APIRouter(include_in_schema=False)
    # Read once, and looked up by name: no path from outside ever reaches the disk.
    known = page_files()

    @router.api_route("/", methods=["GET", "HEAD"])
    async def index(request: Request) -> Response:
        return known[INDEX].response(request)

    @router.api_route(FOLDER + "{name}", methods=["GET", "HEAD"])
    async def file(name: str, request: Request) -> Response:
        if name not in known:
            raise HTTPException(404)
        return known[name].response(request)

    return router
