"""Every way through the real command with a link in its hands, whatever becomes of it: the link's
secret is in nothing that the command prints, logs or leaves on the disk.

Each way ends with the exit code that its row tells, so that it went where it was meant to go.
"""

from __future__ import annotations

import hashlib
import os
import pty
import re
import secrets
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qsl, quote, unquote_to_bytes

import pytest
from raw_server import RawServer

from unshard.testing.object_store import Fault

pytestmark = pytest.mark.slow
PIECE = 12
"""So many characters in a row of a secret are too many."""
DEAD = "http://127.0.0.1:9"


def shown(value: object) -> str:
    """A fault by what is set in it."""
    if not isinstance(value, Fault):
        return str(value)
    fields = ((name, getattr(value, name)) for name in Fault.__slots__)
    return " ".join(f"{name} {is_so}" for name, is_so in fields if is_so not in (None, False))


@dataclass(frozen=True, slots=True)
class Told:
    """Exit code and all that was written to stdout and stderr."""

    code: int
    text: bytes


class Way:
    """A store, a folder, the command; and all links that were given out, with their secrets."""

    def __init__(self, box, store) -> None:
        self.box = box
        self.store = store.store
        self.links: list[str] = []
        self.told: list[Told] = []
        self.log = box.home / "debug.log"
        (box.home / "given").mkdir()
        self.manifest = self.given("manifest.md5", self.digests())

    def digests(self) -> str:
        contents = self.box.contents.items()
        return "".join(f"{hashlib.md5(c).hexdigest()}  {n}\n" for n, c in contents)

    def link(self, name: str = "stubbed.pt", origin: str | None = None, **kind) -> str:
        """A fresh link; a field that nobody looks at has characters that are percent-encoded."""
        token = secrets.token_hex(12) + "/+=:" + secrets.token_hex(12)
        url = f"{self.store.presigned_url(name, **kind)}&Token={quote(token, safe='')}"
        self.links.append(url)
        return url if origin is None else origin + url.removeprefix(self.store.origin)

    def given(self, name: str, content: str) -> Path:
        """A file that a person made: what it holds is not held against the command."""
        path = self.box.home / "given" / name
        path.write_text(content)
        return path

    def environment(self, **variables: str) -> dict[str, str]:
        proxies = {"http_proxy", "https_proxy", "no_proxy", "all_proxy"}
        own = {k: v for k, v in self.box.environment.items() if k.lower() not in proxies}
        return own | variables

    def start(self, *arguments: str, **variables: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [*self.box.command()[:3], *arguments],
            cwd=self.box.home,
            env=self.environment(**variables),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )

    def run(self, *arguments: str, stdin: str = "", **variables: str) -> int:
        return self.end(self.start(*arguments, **variables), stdin)

    def end(self, process: subprocess.Popen[bytes], stdin: str = "") -> int:
        text, _ = process.communicate(stdin.encode(), timeout=100)
        self.told.append(Told(process.returncode, text))
        return process.returncode

    def download(self, url: str, *options: str, **variables: str) -> int:
        manifest = ["--manifest", str(self.manifest)]
        return self.run("download", url, "target", *manifest, *options, **variables)

    def values(self) -> set[bytes]:
        """What must be read nowhere: the values of all links, as they stand and decoded, and
        whatever has both ends of them, in case the middle was shortened."""
        fields = [field for url in self.links for field in url.partition("?")[2].split("&")]
        raw = {field.partition("=")[2].encode() for field in fields}
        raw |= {value.encode() for url in self.links for _, value in parse_qsl(url)}
        raw = {value for value in raw if len(value) > PIECE}
        return {v[at : at + PIECE] for v in raw for at in range(0, len(v) - PIECE, 4)} | {
            value[-PIECE:] for value in raw
        }

    def leaks(self) -> list[str]:
        """Where a piece of a secret can be read."""
        values = self.values()
        assert len(values) > 10, "there are secrets to look for"
        found = [f"{told}" for told in self.told if has_any(told.text, values)]
        for path in self.box.home.rglob("*"):
            if {"given", "objects"} & set(path.relative_to(self.box.home).parts):
                continue
            name = os.fsencode(path.relative_to(self.box.home))
            content = path.read_bytes() if path.is_file() else b""
            found += [str(path)] if has_any(name + b"\0" + content, values) else []
        return found


def has_any(text: bytes, values: set[bytes]) -> bool:
    """Whether one of `values` is in `text`, or in what it is percent-decoded, once or twice."""
    plain = re.sub(rb"\x1b\[[0-9;?]*[A-Za-z]|[\r\n]", b"", text)  # a terminal breaks lines
    once = unquote_to_bytes(text)
    forms = (text, plain, once, unquote_to_bytes(once))
    return any(value in form for form in forms for value in values)


@pytest.fixture
def way(box, store) -> Iterator[Way]:
    way = Way(box, store)
    yield way
    assert way.told, "something was run"
    assert not [told for told in way.told if not told.text], "each said something"
    assert not way.leaks()


@pytest.fixture
def raw_server() -> Iterator[Callable[[Callable[[bytes], bytes]], RawServer]]:
    servers = []

    def serve(answer):
        servers.append(RawServer(answer))
        return servers[-1]

    yield serve
    for server in servers:
        server.close()


def answer(status: str, body: bytes = b"", **headers: str) -> bytes:
    lines = [f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items()]
    head = f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n{''.join(lines)}\r\n"
    return head.encode() + body


def test_the_search_finds_what_is_there(way):
    """What is found in a test that plants it, would be found in all."""
    link = way.link()
    way.told.append(Told(0, b"\n"))
    token = link.partition("Token=")[2]
    signature = link.partition("Signature=")[2].partition("&")[0]
    for planted in (token, unquote_to_bytes(token).decode(), signature, signature[5:30]):
        for form in (planted, quote(planted, safe=""), quote(quote(planted))):
            path = way.box.home / "left.txt"
            path.write_text(f"x {form} y")
            assert way.leaks() == [str(path)], form
            path.unlink()
    wrapped = f"\x1b[1m{signature[:30]}\x1b[0m\r\n{signature[30:]}"
    assert has_any(wrapped[20:50].encode(), way.values())


@pytest.mark.parametrize(
    ("fault", "code"),
    [
        (Fault(), 0),
        (Fault(status=403), 4),
        (Fault(status=403, code="SignatureDoesNotMatch"), 4),
        (Fault(status=400, code="ExpiredToken"), 4),
        (Fault(status=404), 1),
        (Fault(status=503), 1),
        (Fault(html=True), 1),
        (Fault(cut_after=1000), 0),
        (Fault(cut_after=0), 1),
        (Fault(stall_after=0), 1),
        (Fault(wrong_bytes=True), 3),
        (Fault(gzip=True), 1),
    ],
    ids=shown,
)
@pytest.mark.parametrize("shape", [(), ("--json",), ("--events",)], ids=" ".join)
def test_an_answer(way, fault, code, shape):
    way.box.stall_timeout_s = 0.2
    times = 1 if fault.cut_after else None
    way.store.inject(fault, file="part-1.pt" if fault.status != 403 else None, times=times)
    assert way.download(way.link(), *shape) == code, way.told
    assert b"/weights/part-" in way.log.read_bytes(), "what is searched has content"


@pytest.mark.parametrize("origin", [DEAD, "https://127.0.0.1:9", f"http://{'a' * 70}.example"])
def test_a_host_that_cannot_be_reached(way, origin):
    assert way.download(way.link(origin=origin)) == 1, way.told


def test_a_server_without_tls(way):
    origin = way.store.origin.replace("http:", "https:")
    assert way.download(way.link(origin=origin)) == 1
    assert b"TLS failed" in way.told[0].text


def test_a_redirect_to_a_link_of_its_own(way, raw_server):
    to = way.link("part-1.pt")
    origin = raw_server(lambda _: answer("302 Found", Location=to)).origin
    assert way.download(way.link(origin=origin)) == 1
    assert b"redirects elsewhere" in way.told[0].text
    # A manifest is taken from where it redirects to; a login page may be there
    way.store.put("sums.md5", way.digests().encode())
    to = way.link("sums.md5")
    manifest = way.link("sums.md5", origin=origin)
    assert way.download(way.link(), "--manifest", manifest) == 0, way.told


def test_redirects_without_end(way, raw_server):
    location = way.link("sums.md5", origin="")
    origin = raw_server(lambda _: answer("302 Found", Location=location)).origin
    for command in ("verify", "download"):
        link = [way.link()] if command == "download" else []
        assert way.run(command, *link, ".", "--manifest", way.link("sums.md5", origin=origin)) == 1
        assert b"redirects without end" in way.told[-1].text


def test_a_server_that_repeats_the_request(way, raw_server):
    """As S3 does where a signature is wrong, and gateways in headers and status lines."""

    def repeat(head):
        target = head.split()[1].decode()
        said = f"<Error><Code>SignatureDoesNotMatch</Code><Message>{target}</Message></Error>"
        reason = f"403 No {target}"
        return answer(reason, said.encode(), X_Asked=target, Set_Cookie=target, ETag=f'"{target}"')

    assert way.download(way.link(origin=raw_server(repeat).origin)) == 4
    page = raw_server(lambda head: answer("200 OK", b"<html>" + head, Content_Type="text/html"))
    assert way.download(way.link(origin=page.origin)) == 1
    bad = raw_server(lambda head: b"HTTP/1.1 " + head + b"Connection: close\r\n\r\n")
    assert way.download(way.link(origin=bad.origin)) == 1
    lies = raw_server(lambda head: answer("200 OK", b"PK", X=head.split()[1].decode(), Range="\0"))
    assert way.download(way.link(origin=lies.origin)) == 3


def test_an_etag_that_repeats_the_request(way, raw_server):
    """An ETag is kept in the journal, to go on by."""

    def serve(head):
        target = head.split()[1].decode()
        content = way.box.contents[target.partition("?")[0].rpartition("/")[2]]
        short = answer("200 OK", content, ETag=f'"{target}"', Connection="close")
        return short[:-1000]

    way.download(way.link(origin=raw_server(serve).origin))
    assert (way.box.target / ".unshard-download.jsonl").stat().st_size


@pytest.mark.parametrize(
    ("script", "code"),
    [
        ("cat '{}'", 0),
        ("echo 'curl: (22)' $(cat '{}') >&2; exit 22", 4),
        ("set -x; cat '{}' > /dev/null; echo \"$(cat '{}')\" >&2; cat '{}'", 0),
        ("echo nonsense $(cat '{}')", 4),
        ("cut -c 9- '{}'", 4),
        ("tr -d '&' < '{}' | tr '?' ' '", 4),
        ("tr '\\n' '\\000' < '{}'; echo '\\'", 4),
        ("yes $(cat '{}')", 4),
    ],
)
def test_a_command_for_links(way, script, code):
    fresh = way.given("fresh", way.link() + "\n")
    command = way.given("command", script.replace("{}", str(fresh)))
    way.store.inject(Fault(status=403, code="RequestExpired"), times=1)
    assert way.download(way.link(), "--url-command", f"sh '{command}'") == code, way.told
    first = way.run(
        "download", "target", f"--manifest={way.manifest}", f"--url-command=sh {command}"
    )
    assert first == code, way.told


def test_a_file_of_links(way):
    manifest = f"--manifest={way.manifest}"
    gone = way.box.home / "given/gone"
    for number, content in enumerate(("", "\n \n", f"x{way.link()}", f"a {way.link()}")):
        path = way.given(f"file-{number}", content)
        assert way.run("download", "target", manifest, "--url-file", str(path)) == 2, way.told
    assert way.run("download", "target", manifest, "--url-file", str(gone)) == 2
    two = way.given("two", f"{way.link()}\n{way.link()}\n")
    assert way.run("download", "target", manifest, "--url-file", str(two)) == 0, way.told


def test_a_file_of_links_that_is_waited_for(way):
    """Half a link, then nonsense, then none; ended by Ctrl-C."""
    path = way.given("links", way.link())
    way.store.inject(Fault(status=403, code="RequestExpired"), times=None)
    arguments = ("download", "target", f"--manifest={way.manifest}", "--url-file", str(path))
    process = way.start(*arguments)
    until(lambda: any(request.status == 403 for request in way.store.requests), process)
    path.write_text(f"half of {way.link()}")
    time.sleep(2.5)  # it looks once a second, and tells what it saw twice
    process.send_signal(signal.SIGINT)
    assert way.end(process) == 130
    assert b"still waiting" in way.told[0].text


def until(is_time: Callable[[], object], process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 60
    while not is_time():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.005)


@pytest.mark.parametrize(
    ("fault", "code"),
    [(Fault(), 0), (Fault(status=403), 4), (Fault(html=True), 1), (Fault(status=503), 1)],
    ids=shown,
)
def test_a_manifest_by_its_link(way, fault, code):
    way.store.put("sums.md5", way.digests().encode())
    way.store.inject(fault, file="sums.md5", times=None)
    assert way.download(way.link(), "--manifest", way.link("sums.md5")) == code, way.told
    way.store.heal()
    way.store.put("sums.md5", b"not a manifest at all\n" + way.links[-1].encode())
    assert way.run("verify", ".", "--manifest", way.link("sums.md5")) == 3, way.told


@pytest.mark.parametrize("fault", [Fault(), Fault(status=403), Fault(wrong_bytes=True)], ids=shown)
def test_a_repair(way, fault):
    way.box.target.mkdir()
    for name, content in way.box.contents.items():
        (way.box.target / name).write_bytes(content[:-1] + b"?")
    way.store.inject(fault, times=None)
    options = ("--manifest", str(way.manifest), "--repair")
    expected = 4 if fault.status else 3 if fault.wrong_bytes else 0
    for shape in ((), ("--json",)):
        code = way.run("verify", "target", *options, way.link(), *shape)
        assert code == expected, way.told
    assert way.run("verify", "target", *options, way.link()[8:]) == 2


def test_a_plan(way):
    assert way.run("plan", way.link(), "--manifest", str(way.manifest)) == 0, way.told
    assert way.run("plan", way.link(), "--manifest", str(way.manifest), "--json") == 0
    way.store.inject(Fault(status=403), times=None)
    assert way.run("plan", way.link(), "--manifest", str(way.manifest)) == 4
    assert way.run("plan", way.link(origin=DEAD), "--manifest", str(way.manifest)) == 1


def test_a_reshard_on_the_way(way):
    """Of files that are no checkpoint: told when the first has arrived."""
    options = ("--reshard", "out", "--to", "safetensors")
    assert way.download(way.link(), *options) in (1, 3), way.told
    way.store.inject(Fault(status=403), times=None)
    assert way.download(way.link(), *options, "--json") != 0


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_proxy_with_a_password(way, raw_server, scheme):
    password = secrets.token_hex(16)
    way.links.append(f"http://proxy.example/?password={password}")
    busy = raw_server(lambda _: answer("407 Who", b"no", Connection="close"))
    for place in (busy.origin.removeprefix("http://"), "127.0.0.1:9", "127.0.0.1:port"):
        proxy = {f"{scheme}_proxy": f"http://user:{password}@{place}"}
        link = way.link(origin=f"{scheme}://cdn.example")
        assert way.download(link, **proxy) == 1, way.told
    proxy = {"http_proxy": f"http://user:{password}@{way.store.origin.removeprefix('http://')}"}
    assert way.download(way.link(), **proxy) == 0, way.told
    assert any(b"proxy-authorization: basic" in head.lower() for head in busy.heads)


@pytest.mark.parametrize("sig", [signal.SIGINT, signal.SIGTERM, signal.SIGABRT])
def test_a_signal_mid_way(way, sig):
    """SIGABRT with a fault handler, which writes the stack of each thread."""
    way.store.inject(Fault(stall_after=40_000), file="part-1.pt", times=None)
    way.box.stall_timeout_s = 100
    arguments = ("download", way.link(), "target", f"--manifest={way.manifest}")
    process = way.start(*arguments, PYTHONFAULTHANDLER="1")
    until(lambda: len(way.box.fetched()) == len(way.box.names) - 1, process)
    process.send_signal(sig)
    way.store.end_silence() if sig == signal.SIGINT else None
    assert way.end(process) == (130 if sig == signal.SIGINT else -sig)
    if not way.told[0].text:
        way.told[0] = Told(-sig, b"nothing")


def test_where_the_link_comes_from_but_the_arguments_nothing_shows_it(way):
    """What every user of a machine may read. In the arguments it is as the user typed it: the
    system keeps them, and `unshard download --help` says so and names the ways around."""
    way.store.inject(Fault(stall_after=40_000), file="part-1.pt", times=None)
    way.box.stall_timeout_s = 100
    manifest = f"--manifest={way.manifest}"
    links = way.given("links", way.link())
    starts = (
        ("-", "target", {}),
        ("target", {"UNSHARD_URL": way.link()}),
        ("target", f"--url-file={links}", {}),
        ("target", f"--url-command=cat {links}", {}),
    )
    for number, (*arguments, variables) in enumerate(starts):
        folder = [word if word != "target" else f"target-{number}" for word in arguments]
        process = way.start("download", *folder, manifest, **variables)
        if arguments[0] == "-":
            process.stdin.write(way.link().encode() + b"\n")
            process.stdin.flush()
        target = way.box.home / f"target-{number}"
        until(lambda at=target: (at / "part-1.pt.partial").exists(), process)
        about = Path(f"/proc/{process.pid}")
        shown = b"".join(
            path.read_bytes() for path in (about / "cmdline", *about.glob("task/*/comm"))
        )
        assert b"download" in shown
        assert not has_any(shown, way.values())
        process.kill()
        process.communicate()
    assert way.run("download", "--help") == 0
    assert b"shows in the list of processes" in way.told[0].text


CRASHES = {
    "in a thread that fetches": "unshard.download.transfer.Transfer._begin",
    "where the request is written": "unshard.download.wire._SignedHTTPConnection.putrequest",
    "where the answer is judged": "unshard.download.ask.link_refusal",
    "in the journal": "unshard.download.journal.Journal.finish",
    "where the link is read": "unshard.download.url._check_query",
    "where the report is made": "unshard.cli.download.summary",
}


@pytest.mark.parametrize("place", CRASHES.values(), ids=CRASHES)
@pytest.mark.parametrize("development", ["", "1"])
def test_a_crash(way, place, development):
    """An exception that nobody planned for ends in a traceback; also with all of Python's aids."""
    module, _, name = place.rpartition(".")
    owner = f"import {module.removesuffix('.' + module.split('.')[-1])}; owner = {module}"
    if not module.split(".")[-1].islower():
        parent, _, kind = module.rpartition(".")
        owner = f"import {parent}; owner = {parent}.{kind}"
    else:
        owner = f"import importlib; owner = importlib.import_module({module!r})"
    planted = f"{owner}\ndef crash(*a, **k): raise RuntimeError('planted')\nowner.{name} = crash\n"
    python, option, command = way.box.command()[:3]
    head, _, tail = command.rpartition("sys.exit")
    process = subprocess.Popen(
        [python, option, head + planted + "sys.exit" + tail,
         "download", "-", "target", f"--manifest={way.manifest}"],
        cwd=way.box.home,
        env=way.environment(PYTHONDEVMODE=development),
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    assert way.end(process, way.link() + "\n") == 1
    assert b"RuntimeError: planted" in way.told[0].text


@pytest.mark.parametrize(
    "fault", [Fault(), Fault(status=403, code="RequestExpired"), Fault(cut_after=1000)], ids=shown
)
def test_a_terminal(way, fault):
    way.store.inject(fault, file="part-1.pt" if not fault.status else None, times=1)
    master, slave = pty.openpty()
    link = way.given("link", way.link())
    process = subprocess.Popen(
        [*way.box.command()[:3], "download", "target", f"--url-file={link}",
         f"--manifest={way.manifest}", "--max-rate", "2MB"],
        cwd=way.box.home, env=way.environment(TERM="xterm"),
        stdin=slave, stdout=slave, stderr=slave,
    )  # fmt: skip
    os.close(slave)
    written = b""
    try:
        while block := os.read(master, 2**16):
            written += block
            if fault.status and b"put a fresh link into" in written:
                link.write_text(way.link() + "\n")
    except OSError:  # the other end was closed
        pass
    os.close(master)
    way.told.append(Told(process.wait(), written))
    assert process.returncode == 0, written
    assert b"\x1b[" in written
