"""Bytes of one file come in any order, through any kills and power cuts: never a wrong byte."""

from __future__ import annotations

import errno
import os
import random
import tempfile
from contextlib import contextmanager
from itertools import count
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from unshard.download import assembly as module
from unshard.download import journal as journal_module
from unshard.download import lock, partway, shares
from unshard.download.assembly import Assembly
from unshard.download.journal import Journal
from unshard.download.partway import Begun, Partway
from unshard.download.spans import NOTHING
from unshard.errors import DestinationError, NoSpaceError
from unshard.finished import JOURNAL_NAME

SIZE = 3000
CONTENT = random.Random(6).randbytes(SIZE)
BEGUN = Begun(SIZE, '"etag"')
LOG_BYTES = 64


@pytest.fixture(autouse=True, scope="module")
def small_numbers():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shares, "SMALLEST_SHARE_BYTES", 100)
        patch.setattr(module, "LOG_BYTES", LOG_BYTES)
        yield patch


@pytest.fixture
def next_boot(tmp_path, monkeypatch):
    """Call it, and the kernel is another one."""
    boots = count()
    boot_id = tmp_path / "boot-id"
    monkeypatch.setattr(partway, "_BOOT_ID", boot_id)

    def start():
        boot_id.write_text(f"boot-{next(boots)}\n")

    start()
    return start


@contextmanager
def run_in(folder):
    """One run: its end is a kill, as nothing is written at it."""
    with Journal(folder) as journal:
        file = Assembly(folder, "a.pt", journal)
        file.resume()
        yield file


def put(file, share, num_bytes):
    """Bring so many bytes of a share; how many were taken."""
    start = share.position
    return file.put(share, CONTENT[start : start + num_bytes])


def finish(file):
    """Bring all that is missing."""
    while share := file.take():
        while put(file, share, 500):
            pass
    assert file.is_complete


steps = st.tuples(
    st.sampled_from(["take", "put", "put", "put", "back", "sync", "kill", "cut"]),
    st.integers(0, 7),
    st.integers(1, 700),
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(steps, max_size=60))
def test_any_order_of_pieces_kills_and_power_cuts_gives_the_right_bytes(next_boot, sequence):
    with tempfile.TemporaryDirectory() as name:
        folder, left = Path(name), iter(sequence)
        while (end := one_run(folder, left)) != "done":
            if end == "cut":
                next_boot()
        with run_in(folder) as file:
            if not file.begun:
                file.give_back(file.begin(BEGUN))
            finish(file)
            file.close()
        assert (folder / "a.pt.partial").read_bytes() == CONTENT


def one_run(folder, left):
    """Steps up to the next kill or power cut, or until all are done."""
    with run_in(folder) as file:
        held = [] if file.begun else [file.begin(BEGUN)]
        for step, which, num_bytes in left:
            share = held[which % len(held)] if held else None
            if step == "take" and file.num_bytes and (share := file.take()):
                held.append(share)
            elif step == "sync":
                file.sync()
            elif step == "put" and share:
                put(file, share, num_bytes)
            elif step == "back" and share:
                file.give_back(share)
            elif step == "cut":
                lose_what_is_not_synced(folder, file)
            if step in ("kill", "cut"):
                return step
    return "done"


def lose_what_is_not_synced(folder, file):
    """The worst that a power cut may do: the length survives, the bytes do not."""
    state = file._journal.partway("a.pt")
    synced = state.synced if state else NOTHING
    path = folder / "a.pt.partial"
    content = bytearray(path.read_bytes())
    for start, stop in synced.gaps(len(content)).pairs:
        content[start:stop] = bytes(stop - start)
    path.write_bytes(content)


def test_a_kill_costs_each_share_no_more_than_was_not_logged(tmp_path):
    with run_in(tmp_path) as file:
        first = file.begin(BEGUN)
        put(file, first, 100)
        held = [first, *(file.take() for _ in range(5))]
        for share in held:
            put(file, share, LOG_BYTES + 1)
            put(file, share, LOG_BYTES - 2)
        num_bytes = file.num_bytes
    with run_in(tmp_path) as file:
        assert num_bytes - len(held) * LOG_BYTES <= file.num_bytes < num_bytes
        finish(file)
    assert (tmp_path / "a.pt.partial").read_bytes() == CONTENT


def test_a_prefix_loses_nothing_by_a_kill(tmp_path):
    with run_in(tmp_path) as file:
        put(file, file.begin(BEGUN), 1234)
    with run_in(tmp_path) as file:
        assert file.num_bytes == 1234
    assert (tmp_path / "a.pt.partial").stat().st_size == 1234


def test_a_file_has_holes_only_once_two_connections_bring_it(tmp_path):
    with run_in(tmp_path) as file:
        first = file.begin(BEGUN)
        put(file, first, 1000)
        second = file.take()
        assert (tmp_path / "a.pt.partial").stat().st_size == 1000
        put(file, second, 1)
        assert (tmp_path / "a.pt.partial").stat().st_size == SIZE
        assert (tmp_path / "a.pt.partial").stat().st_blocks * 512 <= 2 * 4096


def test_after_a_power_cut_only_what_was_synced_is_believed(tmp_path, next_boot):
    folder = tmp_path / "folder"
    folder.mkdir()
    with run_in(folder) as file:
        share = file.begin(BEGUN)
        put(file, share, 1000)
        file.sync()
        put(file, share, 1000)
    next_boot()
    with run_in(folder) as file:
        assert file.num_bytes == 1000
        assert (folder / "a.pt.partial").stat().st_size == 1000
        put(file, file.take(), 500)
    with run_in(folder) as file:  # killed, not cut: what came since the boot counts
        assert file.num_bytes == 1500
    next_boot()
    with run_in(folder) as file:
        assert file.num_bytes == 1000


def test_without_a_boot_id_only_what_was_synced_is_believed(tmp_path, monkeypatch):
    monkeypatch.setattr(partway, "_BOOT_ID", tmp_path / "no such file")
    with run_in(tmp_path) as file:
        share = file.begin(BEGUN)
        put(file, share, 700)
        file.sync()
        put(file, share, 700)
    with run_in(tmp_path) as file:
        assert file.num_bytes == 700


def test_whoever_holds_a_share_of_what_was_given_up_writes_nothing(tmp_path):
    with run_in(tmp_path) as file:
        put(file, file.begin(BEGUN), 1000)
        share = file.take()
        file.give_up()
        assert put(file, share, 10) == 0
        new = file.begin(Begun(SIZE, '"other"'))
        assert put(file, share, 10) == 0
        assert file.request(share) is None
        put(file, new, 10)
        assert file.num_bytes == 10
        file.close()
        assert put(file, new, 10) == 0
        file.sync()  # of a file that is closed: nothing


def test_a_file_is_synced_now_and_then(tmp_path):
    now = 0.0
    with Journal(tmp_path) as journal:
        file = Assembly(tmp_path, "a.pt", journal, clock=lambda: now)
        put(file, file.begin(BEGUN), 1000)
        file.sync_now_and_then()
        assert journal.partway("a.pt").synced == NOTHING
        now += module.SYNC_S
        file.sync_now_and_then()
        assert journal.partway("a.pt").synced.num_bytes == 1000


def test_a_journal_that_grew_is_written_anew_and_stays_the_lock(tmp_path, monkeypatch, next_boot):
    monkeypatch.setattr(journal_module, "COMPACT_BYTES", 2000)
    folder = tmp_path / "folder"
    folder.mkdir()
    with Journal(folder) as journal:
        Assembly(folder, "old.pt", journal).begin(BEGUN)
    next_boot()
    with run_in(folder) as file:
        first = file.begin(BEGUN)
        put(file, first, 100)
        seen = set()
        for _ in range(60):
            share = file.take() or first
            put(file, share, 70)
            file.sync()
            path = folder / JOURNAL_NAME
            seen.add(path.stat().st_ino)
            assert path.stat().st_size < 6000
            with pytest.raises(DestinationError, match="another download"):
                Journal(folder)
        assert len(seen) > 1
        arrived = file.num_bytes
    with run_in(folder) as file:
        assert file.num_bytes >= arrived - LOG_BYTES
        assert not file._journal.partway("old.pt").is_of_this_boot
        assert file._journal.partway("a.pt").is_of_this_boot
        finish(file)
    assert (folder / "a.pt.partial").read_bytes() == CONTENT


def test_whoever_opened_the_journal_before_it_was_replaced_locks_the_new_one(tmp_path, monkeypatch):
    """The old file is free once it is replaced, and its lock keeps nobody out."""
    path, take = tmp_path / "journal", lock._lock
    path.touch()

    def replaced_first(fd, directory):
        monkeypatch.setattr(lock, "_lock", take)
        fresh = tmp_path / "fresh"
        fresh.touch()
        fresh.replace(path)
        return take(fd, directory)

    monkeypatch.setattr(lock, "_lock", replaced_first)
    fd, is_locked = lock.open_locked(path)
    assert is_locked
    with pytest.raises(DestinationError):
        lock.open_locked(path)
    os.close(fd)


def test_a_line_that_a_full_disk_tore_spoils_no_other(tmp_path, monkeypatch):
    write = os.write
    with Journal(tmp_path) as journal:
        with monkeypatch.context() as patch:
            patch.setattr(os, "write", lambda fd, view: write(fd, view[: (len(view) + 1) // 2]))
            journal.begin("a.pt", Partway(BEGUN))

            def full(fd, view):
                patch.setattr(os, "write", out_of_space)
                return write(fd, view[:20])

            def out_of_space(fd, view):
                raise OSError(errno.ENOSPC, "full")

            patch.setattr(os, "write", full)
            with pytest.raises(NoSpaceError):
                journal.begin("b.pt", Partway(BEGUN))
        journal.begin("c.pt", Partway(BEGUN))
    with Journal(tmp_path) as journal:
        known = [name for name in ("a.pt", "b.pt", "c.pt") if journal.partway(name)]
    assert known == ["a.pt", "c.pt"]
