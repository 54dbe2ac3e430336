"""A private nginx on the loopback: the real thing, beside the object store that only acts it.

with Nginx(folder, location="limit_rate 8m;") as nginx:
    download(PresignedTemplate.parse(f"{nginx.origin}/stubbed.pt"), ["weights.pt"], target)
    nginx.configure("return 503;")
"""

from __future__ import annotations

import getpass
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Self

_CONFIG = """
daemon off; user {user}; worker_processes {workers}; pid {home}/pid; error_log {home}/error.log;
events {{ worker_connections 512; }}
http {{
  log_format bytes '$uri $status $body_bytes_sent';
  access_log {home}/access.log bytes;
  client_body_temp_path {home}/body; proxy_temp_path {home}/proxy; fastcgi_temp_path {home}/fastcgi;
  uwsgi_temp_path {home}/uwsgi; scgi_temp_path {home}/scgi;
  default_type application/octet-stream; sendfile on; tcp_nopush on; keepalive_requests 100000;
  server {{ listen 127.0.0.1:{port}{ssl}; root {root}; location / {{ }}
{location}
  }}
}}
"""
_TLS = " ssl; ssl_certificate {home}/cert.pem; ssl_certificate_key {home}/key.pem"
_START_S = 10.0


class Nginx:
    """Serves the files of `root` on a free port of 127.0.0.1 until closed.

    `location` is configuration for the server: limits, or locations of their own. With `tls` it
    speaks https under a certificate of its own making, `certificate`.

    Raises:
        FileNotFoundError: there is no nginx (or, with `tls`, no openssl) on this machine.
    """

    def __init__(
        self, root: Path, *, location: str = "", tls: bool = False, workers: int = 1
    ) -> None:
        self.root = root
        self._program = program()
        self._home = Path(tempfile.mkdtemp(prefix="unshard-nginx-"))
        self.is_tls = tls
        self._workers = workers
        self._port = _free_port()
        self._process: subprocess.Popen[bytes] | None = None
        if tls:
            self._make_certificate()
        self.configure(location)

    @property
    def origin(self) -> str:
        """`http://127.0.0.1:PORT` or the like with https."""
        return f"http{'s' * self.is_tls}://127.0.0.1:{self._port}"

    @property
    def certificate(self) -> Path:
        """What a client must trust to speak https with it."""
        return self._home / "cert.pem"

    def configure(self, location: str) -> None:
        """Start anew on the same port with this in its configuration; connections are cut."""
        self._stop()
        text = _CONFIG.format(
            user=getpass.getuser(),
            workers=self._workers,
            home=self._home,
            port=self._port,
            root=self.root,
            location=location,
            ssl=_TLS.format(home=self._home) if self.is_tls else "",
        )
        (self._home / "nginx.conf").write_text(text)
        self._process = subprocess.Popen(
            [self._program, "-p", self._home, "-c", self._home / "nginx.conf"],
            stderr=subprocess.DEVNULL,
        )
        self._await_start()

    def kill_workers(self) -> None:
        """Kill what serves, and with it every connection; the master starts others at once."""
        self.signal_workers(signal.SIGKILL)

    def signal_workers(self, sig: signal.Signals) -> None:
        """Send what serves a signal; stopped, it leaves every connection open and silent."""
        assert self._process
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children")
        for pid in children.read_text().split():
            os.kill(int(pid), sig)

    def sent(self) -> list[tuple[str, int, int]]:
        """(path, status, bytes of body) of each request that has ended so far."""
        log = self._home / "access.log"
        lines = [line.rsplit(" ", 2) for line in log.read_text().splitlines()]
        return [(path, int(status), int(size)) for path, status, size in lines]

    def close(self) -> None:
        """Stop at once; answers under way are cut."""
        self._stop()
        shutil.rmtree(self._home)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()

    def _stop(self) -> None:
        if self._process:
            self._process.terminate()
            self._process.wait()
            self._process = None

    def _await_start(self) -> None:
        assert self._process
        deadline = time.monotonic() + _START_S
        while time.monotonic() < deadline and self._process.poll() is None:
            try:
                socket.create_connection(("127.0.0.1", self._port), timeout=1).close()
            except OSError:
                time.sleep(0.01)
            else:
                return
        problem = (self._home / "error.log").read_text()
        self.close()
        raise RuntimeError(f"nginx does not start: {problem}")

    def _make_certificate(self) -> None:
        names = "subjectAltName=IP:127.0.0.1,DNS:localhost"
        command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"]
        files = ["-keyout", str(self._home / "key.pem"), "-out", str(self.certificate)]
        subprocess.run(
            [*command, *files, "-subj", "/CN=localhost", "-addext", names],
            check=True,
            stderr=subprocess.DEVNULL,
        )


def program() -> str:
    """Where nginx is: Debian keeps it out of the PATH of ordinary users.

    Raises:
        FileNotFoundError: nowhere.
    """
    found = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")
    if not found:
        raise FileNotFoundError("no nginx on this machine; Debian: apt-get install nginx-light")
    return found


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
