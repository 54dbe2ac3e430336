from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from unshard.download import DownloadReport, PresignedTemplate, RetryPolicy, download
from unshard.manifest import Digest, Manifest
from unshard.progress import Files, Silent
from unshard.testing.object_store import FakeObjectStore

AT_ONCE = RetryPolicy(first_delay_s=0)


class Recorder(Silent):
    """A Progress that remembers."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.notes: list[str] = []
        self.total_bytes = 0
        self.done_bytes = 0

    def start(self, what: str, total_bytes: int, files: Callable[[], Files] | None = None) -> None:
        self.total_bytes = total_bytes
        self.files = files

    def advance(self, num_bytes: int) -> None:
        with self.lock:
            self.done_bytes += num_bytes

    def note(self, line: str) -> None:
        with self.lock:
            self.notes.append(line)


def checkpoint(size: int, seed: int = 0) -> bytes:
    """Bytes that begin like a zip and repeat nowhere."""
    blocks = (hashlib.sha256(b"%d %d" % (seed, i)).digest() for i in range(size // 32 + 1))
    return (b"PK\x03\x04" + b"".join(blocks))[:size]


class Site:
    """A store, a target folder and what there is to fetch."""

    def __init__(self, store: FakeObjectStore, target: Path) -> None:
        self.store = store
        self.target = target
        self.contents: dict[str, bytes] = {}
        self.num_objects = 0
        self.progress = Recorder()
        self.url = store.presigned_url()

    def add(self, *names: str, size: int = 5000) -> None:
        for name in names:
            self.num_objects += 1
            self.contents[name] = checkpoint(size, seed=self.num_objects)
            self.store.put(name, self.contents[name])

    @property
    def manifest(self) -> Manifest:
        digests = {n: Digest("md5", hashlib.md5(c).hexdigest()) for n, c in self.contents.items()}
        return Manifest(digests, "test.csv")

    @property
    def secret(self) -> str:
        return self.url.partition("Signature=")[2].partition("&")[0]

    def run(self, files: Manifest | list[str] | None = None, **settings) -> DownloadReport:
        settings = {"max_connections": 2, "retry": AT_ONCE, "stall_timeout_s": 20, **settings}
        return download(
            PresignedTemplate.parse(self.url),
            self.manifest if files is None else files,
            self.target,
            progress=self.progress,
            **settings,
        )

    def fetched(self) -> dict[str, bytes]:
        return {p.name: p.read_bytes() for p in self.target.glob("*.pt")}

    def partials(self) -> dict[str, int]:
        return {p.name: p.stat().st_size for p in self.target.glob("*.partial")}

    def requests(self, name: str | None = None) -> list[tuple[str | None, int]]:
        """(Range, status) of each request so far."""
        return [(r.range, r.status) for r in self.store.requests if name in (None, r.name)]


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    """Certificate and key of 127.0.0.1 that nobody vouches for."""
    if not shutil.which("openssl"):
        pytest.skip("no openssl on this machine")
    cert, key = (tmp_path_factory.mktemp("tls") / name for name in ("cert.pem", "key.pem"))
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1",
         "-nodes", "-days", "2", "-subj", "/CN=localhost", "-addext",
         "subjectAltName=IP:127.0.0.1", "-keyout", key, "-out", cert],
        check=True, capture_output=True,
    )  # fmt: skip
    return cert, key


@pytest.fixture
def site(tmp_path):
    (tmp_path / "objects").mkdir()
    with FakeObjectStore(tmp_path / "objects") as store:
        yield Site(store, tmp_path / "target")


@pytest.fixture
def recorder():
    """The class of the Progress that remembers."""
    return Recorder
