"""A link that dies is replaced while the download goes on, and nothing is fetched twice."""

from __future__ import annotations

import gc
import os
import shlex
import signal
import threading
import time
from concurrent.futures import CancelledError, ThreadPoolExecutor
from pathlib import Path

import pytest

from unshard.download import (
    CommandSource,
    FileSource,
    Link,
    PresignedTemplate,
    RetryPolicy,
    download,
)
from unshard.download.link_sources import COMMAND_TIMEOUT_S
from unshard.errors import LinkRefusedError, UsageError
from unshard.testing.object_store import FakeObjectStore, Fault

OLD = "https://cdn.example/weights/part-*.pt?&Expires=1&Signature=OLDSECRET&Key-Pair-Id=k"
NEW = "https://other.example/moved/part-*.pt?&Expires=2&Signature=NEWSECRET&Key-Pair-Id=k"


@pytest.fixture
def fresh(tmp_path):
    """A file whose content is the link that a source gives."""
    return tmp_path / "link.txt"


@pytest.fixture
def counted(tmp_path, fresh):
    """A command that prints the content of `fresh`, and how often it ran."""
    log = tmp_path / "ran"
    log.touch()
    script = f"echo x >> {shlex.quote(str(log))}; cat {shlex.quote(str(fresh))}"
    return f"sh -c {shlex.quote(script)}", lambda: log.read_text().count("x")


def run(site, source, files=None, **settings):
    link = Link(PresignedTemplate.parse(site.url), source)
    report = download(
        link,
        site.manifest if files is None else files,
        site.target,
        progress=site.progress,
        **{"max_connections": 2, "retry": RetryPolicy(first_delay_s=0), **settings},
    )
    return link, report


def renew(source, *, sleep=lambda _: None, accept=lambda _: None):
    """What a source answers, and what it told."""
    notes: list[str] = []
    return source.fresh(PresignedTemplate.parse(OLD), accept, sleep, notes.append), notes


def on_note(site, words, action):
    """Do `action` when the download first says `words`."""
    note, waiting = site.progress.note, [action]

    def hear(line):
        note(line)
        if words in line and waiting:
            waiting.pop()()

    site.progress.note = hear


def test_a_link_that_dies_in_the_middle_of_a_file_costs_no_byte(site, fresh, counted):
    command, num_runs = counted
    site.add("a.pt", "b.pt")
    site.store.inject(Fault(cut_after=2000, retry_after_s=0), file="b.pt")
    fresh.write_text(site.store.presigned_url() + "\nmore lines\n")

    def die():
        site.store.expire_links()
        fresh.write_text(site.store.presigned_url() + "\nmore lines\n")

    on_note(site, "was cut", die)
    link, report = run(site, CommandSource(command), max_connections=1)
    assert site.fetched() == site.contents
    assert site.requests("b.pt") == [(None, 200), ("bytes=2000-", 403), ("bytes=2000-", 206)]
    assert report.received_bytes == 10_000
    assert (num_runs(), link.generation) == (1, 1)
    assert any("b.pt: the server refuses the link" in note for note in site.progress.notes)
    assert any("a fresh link, good until" in note for note in site.progress.notes)


def test_eight_refused_at_once_ask_once(site, fresh, counted):
    command, num_runs = counted
    site.add(*(f"{i}.pt" for i in range(8)))
    site.store.expire_links()
    fresh.write_text(site.store.presigned_url())

    class Slow(CommandSource):
        def fresh(self, *arguments):
            while len(site.store.requests) < 9:  # until all have been refused
                time.sleep(0.001)
            return super().fresh(*arguments)

    run(site, Slow(command), max_connections=8)
    assert site.fetched() == site.contents
    assert num_runs() == 1
    assert sorted(status for _, status in site.requests()) == [200] * 8 + [403] * 9
    assert [status for asked, status in site.requests() if asked == "bytes=0-0"] == [403]


def test_threads_that_come_late_take_what_is_there():
    asked, gate = [], threading.Barrier(8, timeout=60)

    class Source:
        is_unattended = True

        def fresh(self, refused, accept, sleep, note):
            asked.append(refused.query)
            return PresignedTemplate.parse(NEW)

    link = Link(PresignedTemplate.parse(OLD), Source())

    def one(_):
        gate.wait()
        return link.renew(0, "why", sleep=lambda _: None, note=lambda _: None)

    with ThreadPoolExecutor(8) as executor:
        assert all(executor.map(one, range(8)))
    assert len(asked) == link.generation == 1
    assert link.held == (PresignedTemplate.parse(NEW), 1)


def test_a_fresh_link_may_be_of_another_host_and_folder(site, fresh, tmp_path):
    site.add("a.pt")
    site.store.inject(Fault(status=403))
    with FakeObjectStore(site.store.directory) as other:
        fresh.write_text(other.presigned_url(folder="/moved/"))
        run(site, CommandSource(f"cat {fresh}"))
        assert [r.status for r in other.requests] == [200]
        assert site.requests() == [(None, 403)]
    assert site.fetched() == site.contents


def test_without_a_manifest_a_fresh_link_of_another_folder_is_refused(site, fresh):
    site.add("a.pt")
    site.store.inject(Fault(status=403))
    fresh.write_text(site.store.presigned_url(folder="/other-weights/"))
    with pytest.raises(LinkRefusedError, match=r"is for /other-weights/.*from /weights/"):
        run(site, CommandSource(f"cat {fresh}"), ["a.pt"])
    assert len(site.requests()) == 1


def test_a_fresh_link_of_other_files_is_refused(site, fresh):
    site.add("a.pt")
    site.store.expire_links()
    fresh.write_text(site.store.presigned_url("reshard-*.pt"))
    with pytest.raises(LinkRefusedError, match=r"a\.pt: the URL is for reshard-\*") as e:
        run(site, CommandSource(f"cat {fresh}"))
    assert e.value.exit_code == 4


def test_links_that_are_all_refused_end_it(site, fresh, counted):
    command, num_runs = counted
    site.add("a.pt", "b.pt")
    fresh.write_text(site.store.presigned_url())
    site.store.expire_links()
    with pytest.raises(LinkRefusedError, match=r"2 of 2 files are left"):
        run(site, CommandSource(command), max_connections=1)
    assert num_runs() == 3


@pytest.mark.parametrize("status", [401, 403])
def test_without_a_source_nothing_changed(site, status):
    site.add("a.pt")
    site.store.inject(Fault(status=status))
    with pytest.raises(LinkRefusedError, match=f"HTTP {status}"):
        run(site, None)


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (Fault(status=400, code="ExpiredToken"), "the credentials that signed it have expired"),
        (Fault(status=403, code="RequestExpired"), "it has expired"),
        (Fault(status=403, code="SignatureDoesNotMatch"), "its signature is wrong"),
    ],
)
def test_what_the_host_says_of_the_link_is_told_in_words(site, fault, words):
    site.add("a.pt")
    site.store.inject(fault)
    with pytest.raises(LinkRefusedError, match=f"HTTP {fault.status}, {fault.code}: {words}"):
        run(site, None)


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("false", r"failed \(exit status 1\)"),
        ("sh -c 'echo https://x.example/part-*.pt; exit 3'", r"failed \(exit status 3\)"),
        ("true", "there is no link in it"),
        ("/nowhere/give-link --token TOKEN", "cannot be started: No such file"),
        ("echo TOKEN is not a link", "spaces"),
        ("echo TOKEN", "does not begin with https"),
        ("printf '\\377\\376'", "outside ASCII"),
        ("yes TOKEN", "printed too much"),
    ],
)
def test_a_command_that_gives_no_link_says_what_happened_and_nothing_of_itself(command, words):
    with pytest.raises(LinkRefusedError, match=rf"^--url-command .*{words}") as e:
        renew(CommandSource(command))
    assert e.value.exit_code == 4
    assert e.value.__cause__ is e.value.__context__ is None
    assert "TOKEN" not in f"{e.value} {e.value.hint}"


def test_a_silent_command_is_ended():
    source = CommandSource("sleep 600", timeout_s=0.05)
    with pytest.raises(LinkRefusedError, match=r"not done after 0\.05 s"):
        renew(source)
    assert 0 < COMMAND_TIMEOUT_S < 600


def test_what_an_ended_command_started_ends_with_it(tmp_path):
    pid = tmp_path / "pid"
    script = f"sleep 600 & echo $! > {pid}.new; mv {pid}.new {pid}; sleep 600"

    def stop(_seconds):
        if pid.exists():
            raise CancelledError

    with pytest.raises(CancelledError):
        renew(CommandSource(f"sh -c {shlex.quote(script)}"), sleep=stop)
    while is_alive(int(pid.read_text())):
        time.sleep(0.01)


def is_alive(pid: int) -> bool:
    """Whether a process runs that is no mere entry until somebody reaps it."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False
    return status.rpartition(")")[2].split()[0] != "Z"


def test_what_a_command_says_on_stderr_is_handed_on_without_a_links_secret(capfd):
    said = "printf '%s\\n' 'no éntry' 'https://x.example/a.pt?&Signature=TOKEN: 404' >&2"
    with pytest.raises(LinkRefusedError, match="exit status 3"):
        renew(CommandSource(f"sh -c {shlex.quote(said + '; exit 3')}"))
    assert capfd.readouterr().err == "no éntry\nhttps://x.example/a.pt?…: 404\n"


def test_what_a_command_leaves_in_the_background_is_not_waited_for(tmp_path):
    pid = tmp_path / "pid"
    script = f"sleep 600 2>/dev/null & echo $! > {pid}; echo '{NEW}'"
    template, _ = renew(CommandSource(f"sh -c {shlex.quote(script)}"))
    assert template == PresignedTemplate.parse(NEW)
    os.kill(int(pid.read_text()), signal.SIGKILL)


@pytest.mark.parametrize("quiet", ["sleep 600", "sh -c 'exec >&-; exec sleep 600'"])
def test_a_command_ends_with_the_work_that_wanted_it(quiet):
    def stop(seconds):
        raise CancelledError

    with pytest.raises(CancelledError):
        renew(CommandSource(quiet), sleep=stop)


@pytest.mark.parametrize("command", ["", "  ", "echo 'TOKEN"])
def test_a_command_that_is_none_is_a_usage_error(command):
    with pytest.raises(UsageError) as e:
        CommandSource(command)
    assert "TOKEN" not in str(e.value)


def test_a_file_is_read_until_a_good_link_stands_in_it(fresh):
    """Through the states of an editor at work: the old link, gone, empty, half, a wrong one."""
    states = [None, "", "https://other.exa", "https://other.exa", "https://other.exa", NEW]

    def next_state(_seconds):
        state = states.pop(0)
        fresh.unlink() if state is None else fresh.write_text(state)

    fresh.write_text(OLD)
    template, notes = renew(FileSource(fresh), sleep=next_state)
    assert template == PresignedTemplate.parse(NEW)
    assert not states
    assert sum("put a fresh link into" in note for note in notes) == 1
    assert len(notes) == 2  # what stayed broken for two looks is told once
    assert "still waiting" in notes[1]


def test_a_download_waits_for_the_file(site, fresh):
    site.add("a.pt")
    fresh.write_text(site.url + "\n")
    site.store.expire_links()
    on_note(
        site, "put a fresh link", lambda: fresh.write_text("\n" + site.store.presigned_url() + "\n")
    )
    run(site, FileSource(fresh, poll_s=0.01))
    assert site.fetched() == site.contents


def test_waiting_for_the_file_ends_when_another_file_ends_the_download(site, fresh):
    site.add("a.pt", "b.pt")
    fresh.write_text(site.url)
    site.store.inject(Fault(status=403, code="RequestExpired"), file="a.pt")
    (site.target / "b.pt").mkdir(parents=True)
    with pytest.raises(Exception, match=r"b\.pt: is a link or no file"):
        run(site, FileSource(fresh, poll_s=0.01), max_connections=2)


def test_no_secret_of_any_link_is_told_or_kept(site, fresh, counted, caplog, capfd):
    caplog.set_level(0)
    command, _ = counted
    site.add("a.pt")
    first = site.secret
    site.store.inject(Fault(status=403))
    fresh.write_text(site.store.presigned_url())
    site.store.inject(Fault(status=403))
    link, report = run(site, CommandSource(command + " TOKEN"))
    gc.collect()
    kept = b"".join(path.read_bytes() for path in site.target.iterdir()).decode(errors="replace")
    told = f"{link!r} {vars(link)} {report} {site.progress.notes} {caplog.text} {kept}"
    told += "".join(capfd.readouterr())
    assert "a fresh link" in told
    for secret in (first, link.current.query, "Signature=", "TOKEN"):
        assert secret not in told
