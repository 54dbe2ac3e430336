"""A release, servers for it, and the real command run against them in a process of its own."""

from __future__ import annotations

import hashlib
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from unshard.testing.object_store import FakeObjectStore

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
sys.path.insert(0, str(Path(__file__).parents[1] / "download"))

from nginx import Nginx, program

SECRET = "5ecre7" * 6
COMMAND = """
import logging, os, sys
logging.basicConfig(level=logging.DEBUG, filename=os.environ["DEBUG_LOG"])
from unshard.cli.main import main
from unshard.download import RetryPolicy, download, shares
shares.SMALLEST_SHARE_BYTES = int(os.environ["SMALLEST_SHARE_BYTES"])
download.__kwdefaults__.update(
    retry=RetryPolicy(attempts=5, first_delay_s=0.05),
    stall_timeout_s=float(os.environ["STALL_TIMEOUT_S"]),
)
sys.exit(main())
"""
"""The command with shorter waits, and with a log of all that anybody logs."""


@dataclass(frozen=True, slots=True)
class Ran:
    """One run of the command: exit code and all it printed."""

    code: int
    stdout: str
    stderr: str


class Box:
    """A folder to download into, the release that should be there, and the command."""

    def __init__(self, home: Path, size: int = 300_000, num_files: int = 6) -> None:
        self.home = home
        self.target = home / "target"
        self.objects = home / "objects"
        self.objects.mkdir()
        self.random = random.Random(4)
        self.smallest_share_bytes = 2**20
        self.stall_timeout_s = 1.0
        self.contents = {
            f"part-{i}.pt": b"PK\x03\x04" + self.random.randbytes(size - 4 + i)
            for i in range(num_files)
        }
        self.names = list(self.contents)
        for name, content in self.contents.items():
            (self.objects / name).write_bytes(content)

    def replace(self, name: str, content: bytes) -> None:
        """Another object under this name on the server, and in the manifest."""
        self.contents[name] = content
        fresh = self.home / "fresh"
        fresh.write_bytes(content)
        fresh.replace(self.objects / name)

    def start(self, url: str, *options: str) -> subprocess.Popen[str]:
        """The command, under way; the URL comes by stdin."""
        lines = [f"{hashlib.md5(c).hexdigest()}  {n}\n" for n, c in self.contents.items()]
        (self.home / "manifest.md5").write_text("".join(lines))
        process = subprocess.Popen(
            self.command(*options),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=self.environment,
            text=True,
        )
        process.stdin.write(url + "\n")
        process.stdin.flush()
        return process

    def command(self, *options: str) -> list[str]:
        wanted = [] if "--manifest" in options else ["--manifest", str(self.home / "manifest.md5")]
        download = ["download", "-", str(self.target), *wanted, *options]
        return [sys.executable, "-c", COMMAND, *download]

    @property
    def environment(self) -> dict[str, str]:
        return os.environ | {
            "DEBUG_LOG": str(self.home / "debug.log"),
            "SMALLEST_SHARE_BYTES": str(self.smallest_share_bytes),
            "STALL_TIMEOUT_S": str(self.stall_timeout_s),
        }

    def run(self, url: str, *options: str) -> Ran:
        return self.end(self.start(url, *options))

    def end(self, process: subprocess.Popen[str]) -> Ran:
        """Wait for it, and hold it to what every run owes: see `check`."""
        stdout, stderr = process.communicate(timeout=110)
        ran = Ran(process.returncode, stdout, stderr)
        self.check(ran)
        return ran

    def check(self, ran: Ran) -> None:
        """Right files or a clear exit code with one line; never a traceback or a secret."""
        told = ran.stdout + ran.stderr
        assert "Traceback" not in told, told
        assert ran.code in (0, 1, 3, 4, 130, -signal.SIGKILL), told
        if ran.code == 0:
            assert self.fetched() == self.contents
        elif ran.code in (1, 3, 4):
            assert len([x for x in ran.stderr.splitlines() if x.startswith("error: ")]) == 1, told
        assert not self.leaks(told)
        for name, content in self.fetched().items():
            assert content == self.contents[name], f"{name} has its name and is wrong"

    def leaks(self, told: str) -> list[str]:
        """Where the secret of a link can be read, if anywhere."""
        files = [path for path in self.target.rglob("*") if path.is_file()]
        files += [path for path in (self.home / "debug.log",) if path.exists()]
        found = [str(path) for path in files if SECRET.encode() in path.read_bytes()]
        found += [str(path) for path in files if b"Signature=" in path.read_bytes()]
        return found + [told] * (SECRET in told or "Signature=" in told)

    def fetched(self) -> dict[str, bytes]:
        """What has its final name."""
        return {n: p.read_bytes() for n in self.names if (p := self.target / n).is_file()}

    def num_bytes(self) -> int:
        """How many bytes of files, whole or not, are in the target by now."""
        files = self.target.glob("*.pt*") if self.target.exists() else ()
        return sum(allocated(path) for path in files)

    def kill_when(self, is_time: Callable[[], bool], process: subprocess.Popen[str], sig: int):
        """Send the signal as soon as it is time; what the run had to say."""
        while not is_time():
            assert process.poll() is None, process.communicate()
            time.sleep(0.002)
        process.send_signal(sig)
        return self.end(process)


def allocated(path: Path) -> int:
    """Bytes that were written: a file may be long and full of holes."""
    try:
        return path.stat().st_blocks * 512
    except FileNotFoundError:  # it got its final name meanwhile
        return 0


class StoreServer:
    """The release on a FakeObjectStore."""

    def __init__(self, box: Box) -> None:
        self.box = box
        self.store = FakeObjectStore(box.objects)

    def url(self) -> str:
        """A fresh link. The secret rides along in a field that nobody looks at."""
        return f"{self.store.presigned_url()}&Policy={SECRET}"

    def heal(self) -> None:
        self.store.heal()

    def close(self) -> None:
        self.store.close()


class NginxServer:
    """The release on a real nginx, which takes any query."""

    def __init__(self, box: Box) -> None:
        self.box = box
        self.nginx = Nginx(box.objects)

    def url(self) -> str:
        return f"{self.nginx.origin}/stubbed.pt?&Expires=4102444800&Signature={SECRET}"

    def heal(self) -> None:
        self.nginx.configure("")

    def close(self) -> None:
        self.nginx.close()


def has_nginx() -> bool:
    try:
        return bool(program())
    except FileNotFoundError:
        return False


@pytest.fixture
def box(tmp_path):
    return Box(tmp_path)


@pytest.fixture
def make_box():
    return Box


@pytest.fixture
def store(box):
    server = StoreServer(box)
    yield server
    server.close()


@pytest.fixture
def nginx(box):
    if not has_nginx():
        pytest.skip("no nginx on this machine; Debian: apt-get install nginx-light")
    server = NginxServer(box)
    yield server
    server.close()
