"""What a folder may hold when a run begins, and what may happen to it and to the run meanwhile."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from unshard.testing.object_store import Fault

pytestmark = pytest.mark.slow
MIB = 2**20


def stalled(box, store, options=()):
    """A run that waits for the rest of one file until it is cut, all others being there."""
    store.store.inject(Fault(stall_after=40_000), file="part-1.pt")
    box.stall_timeout_s = 100.0
    process = box.start(store.url(), *options)
    while len(box.fetched()) < len(box.names) - 1:
        assert process.poll() is None, process.communicate()
        time.sleep(0.005)
    return process


def test_two_processes_in_one_folder(box, store):
    first = stalled(box, store)
    second = box.run(store.url())
    assert second.code == 1
    assert "another download is writing to this folder" in second.stderr
    store.store.end_silence()
    assert box.end(first).code == 0
    assert box.run(store.url()).code == 0


def test_two_processes_in_one_folder_and_nginx(box, nginx):
    nginx.nginx.configure("limit_rate 100k;")
    first = box.start(nginx.url())
    while not box.num_bytes():
        assert first.poll() is None, first.communicate()
        time.sleep(0.005)
    second = box.run(nginx.url())
    assert second.code == 1
    assert "another download is writing to this folder" in second.stderr
    nginx.heal()
    assert box.end(first).code == 0


def test_the_arguments_of_a_process_show_no_link_that_came_by_stdin(box, store):
    process = stalled(box, store)
    about = [Path(f"/proc/{process.pid}/{name}").read_bytes() for name in ("cmdline", "comm")]
    about += [thread.read_bytes() for thread in Path(f"/proc/{process.pid}/task").glob("*/comm")]
    assert b"download" in about[0]
    assert not [text for text in about if b"Signature" in text or b"5ecre7" in text]
    process.kill()
    box.end(process)
    assert "part-1.pt" in (box.home / "debug.log").read_text(), "what is searched has content"


def test_a_link_in_the_environment_shows_nowhere_else(box, store):
    environment = box.environment | {"UNSHARD_URL": store.url()}
    box.start(store.url()).communicate()  # writes the manifest
    command = [word for word in box.command("--json") if word != "-"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert '"is_verified": true' in done.stdout
    assert not box.leaks(done.stdout + done.stderr)


@pytest.mark.parametrize("part", [0.5, 1])
def test_files_of_wget(box, store, part):
    """It gives a file its final name at once, and keeps no record."""
    box.target.mkdir()
    for name in box.names[:3]:
        content = box.contents[name]
        (box.target / name).write_bytes(content[: int(len(content) * part)])
    assert box.run(store.url()).code == 0
    if part == 1:
        assert not [r for r in store.store.requests if r.name in box.names[:3]]


def test_files_of_aria2_under_way(box, store):
    """Full length, holes where nothing has arrived, and a control file beside it."""
    box.target.mkdir()
    for name in box.names[:3]:
        with (box.target / name).open("wb") as file:
            file.write(box.contents[name][:1000])
            file.truncate(len(box.contents[name]))
        (box.target / f"{name}.aria2").write_bytes(b"\0\1\0\0\0\0")
    assert box.run(store.url()).code == 0


@pytest.mark.parametrize("spoilt", [False, True])
def test_half_files_that_no_journal_knows(box, store, spoilt):
    box.target.mkdir()
    for name in box.names:
        content = bytearray(box.contents[name][:150_000])
        content[77_777] ^= spoilt
        (box.target / f"{name}.partial").write_bytes(content)
    assert box.run(store.url()).code == 0


def test_a_journal_of_rubbish(box, store):
    box.target.mkdir()
    (box.target / ".unshard-download.jsonl").write_bytes(os.urandom(3000) + b'\n{"begun": 7}\n[]')
    assert box.run(store.url()).code == 0


FULL = """
mount -t tmpfs -o size=1m tmpfs "$T" || exit 99
"$@" < "$LINK"; first=$?
ls -A "$T"/*.partial > /dev/null 2>&1 && grep -c Signature -r "$T"
for file in "$T"/*.partial; do test -e "$file" && stat -c 'kept %s %n' "$file"; done
mount -o remount,size=16m "$T"
"$@" < "$LINK"; second=$?
cp -a "$T"/. "$T.seen"
echo "codes: $first $second"
"""


def on_a_small_disk(box, server, connections: int) -> str:
    """A tmpfs too small for the release, then grown: stops with 4, goes on; what it printed."""
    command = box.command("--max-connections", str(connections))
    link = box.home / "link"
    link.write_text(server.url() + "\n")
    process = box.start(server.url())  # writes the manifest, and is not let begin
    process.kill()
    process.communicate()
    for path in (box.target, Path(f"{box.target}.seen")):
        path.mkdir(exist_ok=True)
    done = subprocess.run(
        ["unshare", "--user", "--mount", "--map-root-user", "sh", "-c", FULL, "sh", *command],
        env=box.environment | {"T": str(box.target), "LINK": str(link)},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode == 99 or "unshare" in done.stderr:
        pytest.skip(f"no mount in a namespace of one's own here: {done.stderr.strip()}")
    assert "codes: 4 0" in done.stdout, done.stdout + done.stderr
    assert done.stderr.count("error: ") == 1
    assert "Traceback" not in done.stderr
    assert not box.leaks(done.stdout + done.stderr)
    seen = {n: Path(f"{box.target}.seen/{n}").read_bytes() for n in box.names}
    assert seen == box.contents
    return done.stdout


def test_disk_full_and_nginx(box, nginx):
    on_a_small_disk(box, nginx, 1)
    sent_bytes = sum(num_bytes for _, _, num_bytes in nginx.nginx.sent())
    assert sent_bytes < 2 * sum(map(len, box.contents.values())) - MIB // 2, "it went on"


@pytest.mark.parametrize("connections", [1, 32])
def test_disk_full(box, store, connections):
    told = on_a_small_disk(box, store, connections)
    kept = [line.split(" ", 2)[1:] for line in told.splitlines() if line[:5] == "kept "]
    asked = [(request.name, request.range) for request in store.store.requests]
    for size, path in kept:
        assert (Path(path).name.removesuffix(".partial"), f"bytes={size}-") in asked
    if connections == 1:  # file by file, and those that fit are kept whole
        asked_for = sum(r.sent_bytes for r in store.store.requests)
        assert asked_for < 2 * sum(map(len, box.contents.values())) - MIB // 2, "it went on"


@dataclass(frozen=True, slots=True)
class Kills:
    """So many kills of downloads of a release, each at most `longest_s` after its beginning;
    `rate` is nginx's, per connection."""

    num_kills: int
    num_files: int
    file_mib: int
    connections: int
    rate: str
    longest_s: float


@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    "kills",
    [Kills(50, 4, 48, 2, "limit_rate 12m;", 0.3), Kills(25, 1, 128, 8, "limit_rate 4m;", 1.3)],
    ids=["files", "one file in ranges"],
)
def test_kill_9_at_random_moments(make_box, nginx, tmp_path, kills):
    """Bytes fetched twice: at most 1 MiB per connection and kill, as the server counts them."""
    (tmp_path / "big").mkdir()
    box = make_box(tmp_path / "big", size=kills.file_mib * MIB, num_files=kills.num_files)
    nginx.nginx.root = box.objects
    nginx.nginx.configure(kills.rate)
    moments = random.Random(50)
    done = 0
    options = ("--max-connections", str(kills.connections))
    while done < kills.num_kills:
        had_bytes = box.num_bytes()
        process = box.start(nginx.url(), *options)
        if moments.random() < 0.8:  # else perhaps before a byte has come
            while process.poll() is None and box.num_bytes() == had_bytes:
                time.sleep(0.002)
        try:
            process.wait(moments.random() * kills.longest_s)
        except subprocess.TimeoutExpired:
            process.kill()
            done += 1
        ran = box.end(process)
        assert ran.code in (0, -signal.SIGKILL)
        if ran.code == 0:
            assert_little_was_fetched_twice(box, nginx.nginx, kills, done)
            for path in box.target.iterdir():
                path.unlink()
    assert box.run(nginx.url(), *options).code == 0
    assert_little_was_fetched_twice(box, nginx.nginx, kills, done)
    ranges = [size for _, status, size in nginx.nginx.sent() if status == 206]
    assert len(ranges) >= done / 2, "it was killed mid-way"


def assert_little_was_fetched_twice(box, nginx, kills, done):
    """Held at each whole release against the kills so far, so that none pays for another."""
    nginx.configure(kills.rate)  # ends what is under way, so that all of it is logged
    sent = nginx.sent()
    whole = box.whole_releases = getattr(box, "whole_releases", 0) + 1
    twice = sum(size for _, _, size in sent) - whole * sum(map(len, box.contents.values()))
    told = f"{twice / MIB:.2f} MiB fetched twice in {done} kills"
    assert 0 <= twice <= done * kills.connections * MIB, told


def test_kill_9_at_random_moments_of_an_object_store(box, store):
    moments = random.Random(51)
    for _ in range(50):
        process = box.start(store.url())
        if moments.random() < 0.7:  # else perhaps before a byte has come
            while process.poll() is None and not box.num_bytes():
                time.sleep(0.002)
        try:
            process.wait(moments.random() * 0.1)
        except subprocess.TimeoutExpired:
            process.kill()
        if box.end(process).code == 0:
            for path in box.target.iterdir():
                path.unlink()
    assert box.run(store.url()).code == 0
