"""Progress as a person sees it: on a terminal, and in a log."""

from __future__ import annotations

import dataclasses
import io
from pathlib import Path

import pytest
from rich.console import Console
from tests.cli.watched_work import WatchedWork

from unshard.cli import display
from unshard.cli.lines import LineProgress
from unshard.cli.terminal import LINGER_S, TerminalProgress, on_terminal
from unshard.progress import Busy, Silent

MB = 10**6
PAGE = (Path(__file__).parents[2] / "docs/progress.md").read_text()


def test_lines_are_rare_and_notes_come_at_once() -> None:
    work, stream = WatchedWork(num_files=8), io.StringIO()
    lines = LineProgress(stream, clock=work.clock)
    lines.start("download", 2000 * MB, work.files)
    work.connect(0)
    for second in range(1, 22):
        work.now = second
        lines.advance(work.receive(50 * MB))
    work.num_whole = 3
    lines.file("a.pt")
    lines.note("a.pt: again")
    lines.start("download", 4000 * MB, work.files)  # a better estimate of the same work
    work.now = 40
    work.connect(1, is_check=True)
    lines.advance(0)
    assert stream.getvalue().splitlines() == [
        "download: 500.0 MB of 2.0 GB (25 %), 0 of 8 files, 50.0 MB/s, 30 s left",
        "download: 1.0 GB of 2.0 GB (50 %), 0 of 8 files, 50.0 MB/s, 20 s left",
        "a.pt: again",
        "download: 1.1 GB of 4.0 GB (26 %), 3 of 8 files, 10.4 MB/s, 5 min left, checking 1",
    ]


def test_long_work_writes_a_line_a_minute() -> None:
    work, stream = WatchedWork(), io.StringIO()
    lines = LineProgress(stream, clock=work.clock)
    lines.start("hash", 3600 * MB)
    for second in range(1, 601):
        work.now = second
        lines.advance(MB)
    first, second, *others = stream.getvalue().splitlines()
    assert first == "hash: 10.0 MB of 3.6 GB (0 %), 1.0 MB/s, 1 h 00 min left"
    assert second == "hash: 70.0 MB of 3.6 GB (1 %), 1.0 MB/s, 59 min left"
    assert len(others) == 8


def test_the_line_in_the_documentation() -> None:
    work, stream = WatchedWork(), io.StringIO()
    lines = LineProgress(stream, clock=work.clock)
    lines.start("download", 349_800 * MB, work.files)
    work.connect(0)
    work.connect(1, is_check=True)
    work.num_whole, work.now = 131, 500
    lines.advance(work.receive(42_150 * MB))
    assert stream.getvalue() in PAGE


def screen(
    work: WatchedWork, width: int = 80, height: int = 24
) -> tuple[Console, TerminalProgress]:
    console = Console(
        file=io.StringIO(), force_terminal=True, color_system=None, width=width, height=height
    )
    terminal = TerminalProgress(console, clock=work.clock)
    terminal.start("download", 320_000 * MB, work.files)
    return console, terminal


def drawn(console: Console, terminal: TerminalProgress) -> list[str]:
    with console.capture() as capture:
        console.print(terminal.draw())
    return [line.rstrip() for line in capture.get().splitlines()]


def test_a_terminal_shows_the_whole_and_each_connection() -> None:
    work = WatchedWork()
    console, terminal = screen(work, width=100)
    work.num_whole = 41
    for quarter in range(1, 41):
        work.now = quarter / 4
        work.connect(0, quarter * 5 * MB)
        work.connect(1, quarter * 500 * MB, is_check=True)
        terminal.advance(work.receive(5 * MB))
        lines = drawn(console, terminal)
    total, *rows = lines
    assert total.startswith("download  ")
    assert total.endswith(
        " 41/992 files  200.0 MB of 320.0 GB   20.0 MB/s  4 h 27 min left  checking 1"
    )
    assert rows == [
        "  reshard-model_part-0-shard0.pt   200.0 MB    20.0 MB/s",
        "  reshard-model_part-1-shard1.pt    20.0 GB     2.0 GB/s  checking",
    ]


@pytest.mark.parametrize(("width", "height"), [(200, 50), (80, 24), (80, 10), (40, 5), (20, 2)])
def test_32_connections_fit_every_terminal(width: int, height: int) -> None:
    work = WatchedWork()
    console, terminal = screen(work, width, height)
    for slot in range(32):
        work.connect(slot, 10**slot)
    lines = drawn(console, terminal)
    assert len(lines) < height
    assert max(map(len, lines)) <= width
    shown = sum("shard" in line or "…" in line for line in lines[1:])
    assert shown == min(32, max(height - 3, 0))
    assert lines[-1].strip() == f"+ {32 - shown} more" or shown in (0, 32)


def test_names_lose_their_beginning_not_what_tells_them_apart() -> None:
    work = WatchedWork()
    console, terminal = screen(work, width=60)
    work.connect(17)
    _, row = drawn(console, terminal)
    assert row.startswith("  …model_part-1-shard17.pt  ")


def test_rows_keep_their_places_between_two_files() -> None:
    work = WatchedWork()
    console, terminal = screen(work)
    for slot in range(3):
        work.connect(slot)
    before = drawn(console, terminal)
    gone = work.busy.pop(1)
    assert drawn(console, terminal) == before
    work.now += LINGER_S / 2
    work.busy[1] = gone
    assert drawn(console, terminal)[1:] == before[1:]
    del work.busy[1]
    work.now += LINGER_S + 0.1
    assert drawn(console, terminal)[1:] == [before[1], before[3]]


def test_a_slot_keeps_its_rate_over_many_small_files() -> None:
    work = WatchedWork()
    console, terminal = screen(work)
    for second in range(20):
        work.now = second
        work.connect(0)
        work.busy[0] = dataclasses.replace(work.busy[0], earlier_bytes=second * MB)
        row = drawn(console, terminal)[1]
    assert row.endswith("  0 bytes     1.0 MB/s")


def test_files_that_are_hashed_together_share_a_row() -> None:
    work = WatchedWork()
    console, terminal = screen(work)
    work.busy[0] = Busy(0, ("a.pt", "b.pt"), 3 * MB, 0, True)
    _, row = drawn(console, terminal)
    assert row.split() == ["2", "files", "3.0", "MB", "0", "bytes/s", "checking"]


def test_work_without_files_has_one_line() -> None:
    work = WatchedWork()
    console, terminal = screen(work)
    terminal.advance(5)
    terminal.start("reshard", 200 * MB)
    terminal.advance(100 * MB)  # done by an earlier run
    for second in range(1, 11):
        work.now = second
        terminal.advance(MB)
    [line] = drawn(console, terminal)
    assert line.startswith("reshard  ")
    assert line.endswith("  110.0 MB of 200.0 MB    1.0 MB/s  2 min left")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_notes_are_whole_and_once_and_nothing_else_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")
    terminal = Terminal()
    with on_terminal(terminal) as progress:
        progress.start("download", 1000)
        progress.note("[bold]a.pt[/bold]: " + "x" * 200)
        progress.note("\x1b[2Ja bad name")
    text = terminal.getvalue()
    assert text.count("[bold]a.pt[/bold]: " + "x" * 200) == 1
    assert "\\x1b[2Ja bad name" in text
    assert text.endswith("\x1b[2K")  # the line of the progress is cleared


def test_the_display_is_chosen_by_where_it_writes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    with display.progress(Terminal()) as progress:
        assert isinstance(progress, TerminalProgress)
    with display.progress(io.StringIO()) as progress:
        assert isinstance(progress, LineProgress)
    monkeypatch.setenv("TERM", "dumb")
    with display.progress(Terminal()) as progress:
        assert isinstance(progress, LineProgress)
    monkeypatch.setattr("sys.stderr", None)
    with display.progress() as progress:
        assert isinstance(progress, Silent)
