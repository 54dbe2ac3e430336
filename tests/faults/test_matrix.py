"""The fault matrix: whatever happens on the way, a run ends with the right bytes or says, in one
line and by its exit code, why not; a later run goes on from there. docs/faults.md shows it:

    UNSHARD_UPDATE_DOCS=1 pytest -m 'slow or not slow' tests/faults/test_matrix.py -k page
"""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from unshard.testing.object_store import Fault

PAGE = Path(__file__).parents[2] / "docs/faults.md"
RANDOM = random.Random(175)


@dataclass(frozen=True, slots=True)
class Row:
    """A fault, what it does to a server, and what the runs come to.

    `codes` are the exit codes of a run under the fault and, where that fails, of the next one
    after `between` has put things right. Every 0 means: all files there, byte for byte.
    """

    fault: str
    arrange: Callable[[Any], object]
    codes: tuple[int, ...]
    end: str
    between: Callable[[Any], object] = lambda server: server.heal()
    old_link: bool = True
    options: Callable[[Any], tuple[str, ...]] = lambda server: ()


def inject(fault: Fault, times: int | None = 1, file: str | None = "part-1.pt") -> Callable:
    return lambda server: server.store.inject(fault, file=file, times=times)


def after_three_answers(fault: Fault) -> Callable:
    def arrange(server):
        inject(Fault(), times=3, file=None)(server)
        inject(fault, times=None, file=None)(server)

    return arrange


def cut_then(fault: Fault, times: int | None = 1) -> Callable:
    """Half the file, and then the fault where the rest is asked for."""

    def arrange(server):
        inject(Fault(cut_after=150_000))(server)
        inject(fault, times=times)(server)

    return arrange


def cut_at_random(server):
    for name in server.box.names:
        for _ in range(3):
            inject(Fault(cut_after=RANDOM.randrange(90_000)), file=name)(server)


def withdrawn_once(server):
    """The link is refused after three answers, a fresh one is not."""
    inject(Fault(), times=3, file=None)(server)
    inject(Fault(status=403, code="RequestExpired"), times=1, file=None)(server)


def fresh_links(server) -> tuple[str, ...]:
    link = server.box.home / "fresh-link"
    link.write_text(server.url() + "\n")
    return ("--url-command", f"cat '{link}'")


def pasted_link(server) -> tuple[str, ...]:
    """A person pastes a fresh link once the first is refused."""
    link = server.box.home / "pasted-link"
    link.write_text(server.url() + "\n")

    def paste():
        deadline = time.monotonic() + 100
        while not any(request.status == 403 for request in server.store.requests):
            if time.monotonic() > deadline:
                return
            time.sleep(0.01)
        link.write_text(server.url() + "\n")

    threading.Thread(target=paste, daemon=True).start()
    return ("--url-file", str(link))


def new_bytes(server):
    server.heal()
    server.box.replace("part-1.pt", b"PK\x03\x04" + bytes(299_997))


def shorter(server):
    server.heal()
    server.box.replace("part-1.pt", b"PK\x03\x04" + bytes(100_000))
    inject(Fault(ignore_if_range=True), times=2)(server)


def short_on_server(server):
    path = server.box.objects / "part-1.pt"
    path.write_bytes(path.read_bytes()[:-1000])


def whole_on_server(server):
    server.box.replace("part-1.pt", server.box.contents["part-1.pt"])


def withdraw(server):
    server.heal()
    server.store.expire_links()


BUSY = Fault(status=503)
STORE = [
    Row("nothing", lambda _: None, (0,), "all files, verified"),
    Row("every connection cut at random bytes, three times a file", cut_at_random, (0,), "goes on"),
    Row("a connection stalls", inject(Fault(stall_after=150_000)), (0,), "asks again"),
    Row("500, three times", inject(Fault(status=500), 3), (0,), "asks again"),
    Row("503 with Retry-After", inject(Fault(status=503, retry_after_s=1)), (0,), "waits"),
    Row("429 with Retry-After", inject(Fault(status=429, retry_after_s=1)), (0,), "waits"),
    Row("503 without end", inject(BUSY, None), (1, 0), "gives up that file, fetches the others"),
    Row("404", inject(Fault(status=404), None), (1, 0), "names the file, fetches the others"),
    Row(
        "403 for one file: there is none of that name",
        inject(Fault(status=403), None),
        (1, 0),
        "names the file, fetches the others",
    ),
    Row("403 mid-set", after_three_answers(Fault(status=403)), (4, 0), "stops, keeps all"),
    Row(
        "403 mid-set, on the only connection",
        after_three_answers(Fault(status=403)),
        (4, 0),
        "stops, keeps all",
        options=lambda server: ("--max-connections", "1"),
    ),
    Row(
        "the link is withdrawn mid-set, a fresh one is given to the next run",
        after_three_answers(Fault(status=403)),
        (4, 0),
        "stops, keeps all; goes on at the byte",
        between=withdraw,
        old_link=False,
    ),
    Row(
        "the next run has the withdrawn link still",
        after_three_answers(Fault(status=403)),
        (4, 4),
        "stops again",
        between=withdraw,
    ),
    Row(
        "403 mid-set, with --url-command",
        withdrawn_once,
        (0,),
        "asks the command for a fresh link, goes on",
        options=fresh_links,
    ),
    Row(
        "403 mid-set, with --url-file",
        withdrawn_once,
        (0,),
        "waits for a fresh link in the file, goes on",
        options=pasted_link,
    ),
    Row(
        "400 with S3's XML: `ExpiredToken`",
        after_three_answers(Fault(status=400, code="ExpiredToken")),
        (4, 0),
        "stops, keeps all",
    ),
    Row("another ETag mid-file", cut_then(Fault(changed_etag=True), None), (0,), "starts it anew"),
    Row("no ETag", cut_then(Fault(no_etag=True)), (0,), "starts it anew"),
    Row(
        "other bytes under the name between two runs",
        cut_then(BUSY, None),
        (1, 0),
        "starts it anew",
        between=new_bytes,
    ),
    Row("wrong bytes, same length, once", inject(Fault(wrong_bytes=True)), (0,), "fetches again"),
    Row(
        "wrong bytes, same length, always",
        inject(Fault(wrong_bytes=True), None),
        (3, 0),
        "keeps nothing of it, fetches the others",
    ),
    Row("a web page in place of a file", inject(Fault(html=True), None), (1, 0), "says so"),
    Row("gzip that nobody asked for", inject(Fault(gzip=True), None), (1, 0), "says so"),
    Row("a body cut short", inject(Fault(cut_after=299_000)), (0,), "fetches the rest"),
    Row(
        "200 with another length than the manifest's file has",
        short_on_server,
        (3, 0),
        "keeps nothing of it, fetches the others",
        between=whole_on_server,
    ),
    Row("Range is ignored", cut_then(Fault(ignore_range=True)), (0,), "starts it anew"),
    Row("a range one byte off", cut_then(Fault(wrong_range=True)), (0,), "starts it anew"),
    Row(
        "416, as the file is shorter by now",
        cut_then(BUSY, None),
        (1, 0),
        "starts it anew",
        between=shorter,
    ),
]


RATE = "limit_rate 100k;"
"""A third of a file in the first second, which nginx sends at once."""


def serve(location: str) -> Callable:
    return lambda server: server.nginx.configure(location)


def when_bytes_came(server: Any, *moments: tuple[int, Callable[[], object]]) -> None:
    """Do something each time so many bytes have come."""

    def watch():
        deadline = time.monotonic() + 100
        for num_bytes, action in moments:
            while server.box.num_bytes() < num_bytes:
                if time.monotonic() > deadline:
                    return
                time.sleep(0.002)
            action()

    server.nginx.configure(RATE)
    threading.Thread(target=watch, daemon=True).start()


def cut_by_nginx(server):
    moments = sorted(RANDOM.randrange(1_500_000) for _ in range(3))
    when_bytes_came(server, *((moment, server.nginx.kill_workers) for moment in moments))


def freeze(server):
    """Its workers stand still for longer than a stall is waited for, mid-way."""

    def stand_still():
        server.nginx.signal_workers(signal.SIGSTOP)
        time.sleep(2 * server.box.stall_timeout_s)
        server.nginx.signal_workers(signal.SIGCONT)

    when_bytes_came(server, (500_000, stand_still))


def expire_mid_set(server):
    body = XML % ("AccessDenied", "Request has expired")
    refuse = serve(f"if ($arg_fresh = '') {{ return 403 '{body}'; }}")
    when_bytes_came(server, (500_000, lambda: refuse(server)))


def fresh_for_nginx(server) -> tuple[str, ...]:
    link = server.box.home / "fresh-link"
    link.write_text(f"{server.url()}&fresh=1\n")
    return ("--url-command", f"cat '{link}'")


def wrong_on_server(server):
    path = server.box.objects / "part-1.pt"
    path.write_bytes(path.read_bytes()[:-1] + b"?")


XML = '<?xml version="1.0"?><Error><Code>%s</Code><Message>%s</Message></Error>'
ONE = "location = /part-1.pt { %s }"
NGINX = [
    Row("nothing", lambda _: None, (0,), "all files, verified"),
    Row("workers killed at random bytes, three times", cut_by_nginx, (0,), "goes on"),
    Row("every connection stalls mid-way", freeze, (0,), "asks again"),
    Row("the link expires mid-set", expire_mid_set, (4, 0), "stops, keeps all"),
    Row(
        "the link expires mid-set, with --url-command",
        expire_mid_set,
        (0,),
        "asks the command for a fresh link, goes on",
        options=fresh_for_nginx,
    ),
    Row("`return 500` for a file", serve(ONE % "return 500;"), (1, 0), "fetches the others"),
    Row("a rate limit per connection", serve("limit_rate 150k;"), (0,), "all files, verified"),
    Row("`return 503` for a file", serve(ONE % "return 503;"), (1, 0), "fetches the others"),
    Row("`return 429` for a file", serve(ONE % "return 429;"), (1, 0), "fetches the others"),
    Row("`return 403` for a file", serve(ONE % "return 403;"), (1, 0), "fetches the others"),
    Row(
        "403 for a file with the CDN's XML: `Request has expired`",
        serve(ONE % f"return 403 '{XML % ('AccessDenied', 'Request has expired')}';"),
        (4, 0),
        "stops, keeps all",
    ),
    Row(
        "the CDN's XML with status 200 that claims to be bytes",
        serve(ONE % f"return 200 '{XML % ('InternalError', 'Please try again')}';"),
        (1, 0),
        "says so",
    ),
    Row("`return 404` for a file", serve(ONE % "return 404;"), (1, 0), "fetches the others"),
    Row("`return 416` for a file", serve(ONE % "return 416;"), (1, 0), "fetches the others"),
    Row("`return 444`: cut without an answer", serve(ONE % "return 444;"), (1, 0), "gives it up"),
    Row("a redirect", serve(ONE % "return 302 /login;"), (1, 0), "does not follow"),
    Row(
        "an HTML page with status 200",
        serve(ONE % "default_type text/html; return 200 '<html>Please log in</html>';"),
        (1, 0),
        "says so",
    ),
    Row(
        "an HTML page with status 200 that claims to be bytes",
        serve(ONE % "return 200 '<html>Please log in</html>';"),
        (1, 0),
        "says so",
    ),
    Row("`max_ranges 0`: Range is ignored", serve("max_ranges 0;"), (0,), "all files, verified"),
    Row("`etag off`", serve("etag off;"), (0,), "all files, verified"),
    Row(
        "wrong bytes, same length",
        wrong_on_server,
        (3, 0),
        "keeps nothing of it, fetches the others",
        between=whole_on_server,
    ),
    Row("gzip is on", serve("gzip on; gzip_types *;"), (0,), "asks for none, gets none"),
    Row(
        "200 with another length than the manifest's file has",
        short_on_server,
        (3, 0),
        "keeps nothing of it, fetches the others",
        between=whole_on_server,
    ),
]


def play(row: Row, server: Any) -> None:
    row.arrange(server)
    link = server.url()
    for number, code in enumerate(row.codes):
        if number:
            row.between(server)
            link = link if row.old_link else server.url()
        ran = server.box.run(link, *row.options(server))
        assert ran.code == code, ran.stderr


SHARES = pytest.mark.parametrize("smallest_share_bytes", [2**20, 10_000])
"""Connections bring whole files, or share files as small as these."""


@pytest.mark.slow
@SHARES
@pytest.mark.parametrize("row", STORE, ids=lambda row: row.fault)
def test_object_store(row, store, smallest_share_bytes):
    store.box.smallest_share_bytes = smallest_share_bytes
    play(row, store)


@pytest.mark.slow
@SHARES
@pytest.mark.parametrize("row", NGINX, ids=lambda row: row.fault)
def test_nginx(row, nginx, smallest_share_bytes):
    nginx.box.smallest_share_bytes = smallest_share_bytes
    play(row, nginx)
    if (row.fault, smallest_share_bytes) == ("a rate limit per connection", 10_000):
        assert 206 in {status for _, status, _ in nginx.nginx.sent()}, "files are shared"


MID_WAY = [
    Row("kill -9 mid-way", lambda _: None, (-signal.SIGKILL, 0), "goes on at the byte"),
    Row("Ctrl-C mid-way", lambda _: None, (130, 0), "stops at once, goes on at the byte"),
    Row("kill -9, then Range is ignored", serve("max_ranges 0;"), (-9, 0), "starts those anew"),
    Row("kill -9, then `etag off`", serve("etag off;"), (-9, 0), "starts those anew"),
    Row("kill -9, then the file is another one", new_bytes, (-9, 0), "starts that one anew"),
    Row("kill -9, then 503", serve("return 503;"), (-9, 1, 0), "gives up, goes on when healed"),
    Row("kill -9, then 403", serve("return 403;"), (-9, 4, 0), "stops, goes on when healed"),
]


@pytest.mark.slow
@SHARES
@pytest.mark.parametrize("row", MID_WAY, ids=lambda row: row.fault)
def test_nginx_mid_way(row, nginx, smallest_share_bytes):
    """The fault comes upon files that are half there: a prefix of each, or ranges."""
    nginx.box.smallest_share_bytes = smallest_share_bytes
    nginx.nginx.configure(RATE)
    box, sig = nginx.box, signal.SIGINT if row.codes[0] == 130 else signal.SIGKILL
    ran = box.kill_when(lambda: box.num_bytes() >= 500_000, box.start(nginx.url()), sig)
    assert ran.code == row.codes[0]
    nginx.heal()
    row.arrange(nginx)
    for code in row.codes[1:]:
        ran = box.run(nginx.url())
        assert ran.code == code, ran.stderr
        nginx.heal()


@pytest.mark.slow
def test_nginx_loses_its_workers_mid_way(nginx):
    nginx.nginx.configure(RATE)
    process = nginx.box.start(nginx.url())
    for num_bytes in (300_000, 800_000):
        while nginx.box.num_bytes() < num_bytes:
            assert process.poll() is None, process.communicate()
            time.sleep(0.005)
        nginx.nginx.kill_workers()
    assert nginx.box.end(process).code == 0
    assert 206 in {status for _, status, _ in nginx.nginx.sent()}


def test_the_page_shows_the_matrix() -> None:
    page = PAGE.read_text()
    head, _, rest = page.partition("<!-- matrix -->\n")
    _, _, tail = rest.partition("<!-- end of matrix -->\n")
    fresh = f"{head}<!-- matrix -->\n{table()}<!-- end of matrix -->\n{tail}"
    if os.environ.get("UNSHARD_UPDATE_DOCS"):
        PAGE.write_text(fresh)
    assert page == fresh, "run it with UNSHARD_UPDATE_DOCS=1, and look at what changed"


def table() -> str:
    lines = ["| fault | server | exit codes, run by run | what a run does |", "|---|---|---|---|"]
    for server, rows in (("object store", STORE), ("nginx", [*NGINX, *MID_WAY])):
        for row in rows:
            codes = ", ".join("killed" if code < 0 else str(code) for code in row.codes)
            lines.append(f"| {row.fault} | {server} | {codes} | {row.end} |")
    return "\n".join(lines) + "\n"
