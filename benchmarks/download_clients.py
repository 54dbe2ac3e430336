"""What a Python programmer would write to fetch many files: threads, a keep-alive client, md5 in
flight. `benchmarks/download.py` runs it as `download_clients.py CLIENT THREADS MD5S URL` in the
folder to fill, and holds `unshard download` against it.
"""

from __future__ import annotations

import hashlib
import os
import ssl
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection, HTTPSConnection
from pathlib import Path
from threading import local
from urllib.parse import urlsplit

import urllib3

BLOCK_BYTES = 256 * 1024
CERTIFICATE = os.environ.get("SSL_CERT_FILE")
MINE = local()


def by_urllib3(url: str) -> Iterator[bytes]:
    if not hasattr(MINE, "pool"):
        MINE.pool = urllib3.PoolManager(ca_certs=CERTIFICATE)
    response = MINE.pool.request("GET", url, preload_content=False)
    assert response.status == 200
    yield from response.stream(BLOCK_BYTES)
    response.release_conn()


def by_requests(url: str) -> Iterator[bytes]:
    import requests  # noqa: PLC0415 - not everybody has it

    if not hasattr(MINE, "session"):
        MINE.session = requests.Session()
        MINE.session.verify = CERTIFICATE or True
        MINE.session.trust_env = False  # a bundle that the environment names would go first
    with MINE.session.get(url, stream=True) as response:
        response.raise_for_status()
        yield from response.iter_content(BLOCK_BYTES)


def by_http_client(url: str) -> Iterator[bytes]:
    parts = urlsplit(url)
    if not hasattr(MINE, "connection"):
        tls = ssl.create_default_context(cafile=CERTIFICATE) if parts.scheme == "https" else None
        MINE.connection = (
            HTTPSConnection(parts.netloc, context=tls) if tls else HTTPConnection(parts.netloc)
        )
    MINE.connection.request("GET", parts.path)
    response = MINE.connection.getresponse()
    assert response.status == 200
    while block := response.read(BLOCK_BYTES):
        yield block


CLIENTS = {"urllib3": by_urllib3, "requests": by_requests, "http.client": by_http_client}


def fetch(client: str, url: str, md5: str) -> None:
    digest = hashlib.md5(usedforsecurity=False)
    with Path(url.rpartition("/")[2]).open("wb", buffering=0) as file:
        for block in CLIENTS[client](url):
            file.write(block)
            digest.update(block)
    assert digest.hexdigest() == md5, url


def main() -> None:
    client, threads, md5s, base = sys.argv[1:]
    lines = [line.split() for line in Path(md5s).read_text().splitlines()]
    with ThreadPoolExecutor(int(threads)) as executor:
        work = [executor.submit(fetch, client, f"{base}/{name}", md5) for md5, name in lines]
        for future in work:
            future.result()


if __name__ == "__main__":
    main()
