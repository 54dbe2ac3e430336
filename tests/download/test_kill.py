"""A run may end at any moment, by Ctrl-C or without warning; the next one goes on from there."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time

import pytest

from unshard.testing.object_store import Fault

CHILD = """
import sys
from unshard.download import PresignedTemplate, download

template = PresignedTemplate.parse(sys.stdin.readline())
download(template, ["a.pt", "b.pt", "c.pt"], sys.argv[1], max_connections=1,
         on_file=lambda name: print(name, flush=True))
"""


@pytest.mark.slow
def test_kill_9_loses_nothing_that_had_arrived(site):
    site.add("a.pt", "b.pt", "c.pt", size=300_000)
    site.store.inject(Fault(stall_after=200_000), file="b.pt")
    with subprocess.Popen(
        [sys.executable, "-c", CHILD, str(site.target)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as child:
        child.stdin.write(site.url + "\n")
        child.stdin.flush()
        assert child.stdout.readline() == "a.pt\n"
        while site.partials() != {"b.pt.partial": 200_000}:
            assert child.poll() is None
            time.sleep(0.005)
        child.kill()
        assert child.wait() == -signal.SIGKILL
    assert sorted(site.fetched()) == ["a.pt"]
    assert site.partials() == {"b.pt.partial": 200_000}

    report = site.run()
    assert report.kept == ("a.pt",)
    assert report.received_bytes == 400_000
    assert site.requests("b.pt")[-1] == ("bytes=200000-", 206)
    assert site.fetched() == site.contents


def test_ctrl_c_ends_all_transfers_at_once_and_keeps_them(site):
    site.add("a.pt", "b.pt", size=5000)
    site.store.inject(Fault(stall_after=1000), times=2)
    advance, lock = site.progress.advance, threading.Lock()

    def interrupt_when_both_stall(num_bytes):
        with lock:
            advance(num_bytes)
            if num_bytes and site.progress.done_bytes == 2000:
                signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)

    site.progress.advance = interrupt_when_both_stall
    with pytest.raises(KeyboardInterrupt):
        site.run(stall_timeout_s=3600)
    site.progress.advance = advance
    assert site.partials() == {"a.pt.partial": 1000, "b.pt.partial": 1000}
    assert "run the same command again: it continues from here" in site.progress.notes[-1]
    assert not [t for t in threading.enumerate() if t.name.startswith("download")]
    site.run()
    assert site.fetched() == site.contents
