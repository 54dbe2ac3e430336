"""Progress on a terminal: a line for the whole, and one for each connection at work."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Self, TextIO

from rich.cells import cell_len, set_cell_size
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from unshard.cli.printable import printable
from unshard.cli.quantities import format_duration
from unshard.cli.standing import Figures, SmoothRate, Standing
from unshard.progress import Busy, Files, shown_bytes

LOOKS_PER_SECOND = 4
ROW_SMOOTHING_S = 5.0
LINGER_S = 1.0
"""A row stays so long after its connection ended: mostly the next one is about to take it."""
NARROWEST_BAR, WIDEST_BAR = 8, 40
FIGURES_WIDTH = 36
"""Cells of a row beside the name."""


@dataclass(slots=True)
class _Row:
    """What the connections in one slot bring."""

    busy: Busy
    seen: float
    rate: SmoothRate = field(default_factory=lambda: SmoothRate(ROW_SMOOTHING_S))


class TerminalProgress:
    """Lines at the foot of the terminal, drawn anew a few times a second; notes go above."""

    def __init__(self, console: Console, clock: Callable[[], float] = time.monotonic) -> None:
        self._console = console
        self._clock = clock
        self._standing = Standing(clock)
        self._rows: dict[int, _Row] = {}
        self._name_width = 0
        self._live = Live(
            console=console,
            get_renderable=self.draw,
            refresh_per_second=LOOKS_PER_SECOND,
            transient=True,
            vertical_overflow="crop",
        )

    def start(self, what: str, total_bytes: int, files: Callable[[], Files] | None = None) -> None:
        self._standing.start(what, total_bytes, files)

    def advance(self, num_bytes: int) -> None:
        self._standing.advance(num_bytes)

    def file(self, name: str) -> None:
        """Counted when it is drawn next."""

    def note(self, line: str) -> None:
        self._console.print(printable(line), markup=False, highlight=False, soft_wrap=True)

    def draw(self) -> RenderableType:
        """All lines as they are now, fewer than the terminal has."""
        figures = self._standing.figures()
        if figures is None:
            return Text()
        self._look_at_rows(figures)
        return Group(self._total(figures), *self._fitting_rows(self._console.height - 2))

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(self, *_exception: object) -> None:
        self._live.stop()

    def _look_at_rows(self, figures: Figures) -> None:
        now = self._clock()
        for busy in figures.files.busy if figures.files else ():
            row = self._rows.setdefault(busy.slot, _Row(busy, now))
            row.busy, row.seen = busy, now
        for slot, row in list(self._rows.items()):
            row.rate.look(now, row.busy.earlier_bytes + row.busy.num_bytes)
            if now - row.seen > LINGER_S:
                del self._rows[slot]

    def _total(self, figures: Figures) -> RenderableType:
        told = Text("  ".join(_told(figures)), no_wrap=True, overflow="ellipsis")
        free = self._console.width - cell_len(figures.what) - told.cell_len - 4
        line = Table.grid(padding=(0, 2, 0, 0))
        cells: list[RenderableType] = [Text(figures.what, no_wrap=True)]
        if free >= NARROWEST_BAR:
            total = max(figures.total_bytes, 1)
            done = min(figures.done_bytes, total)
            cells.append(ProgressBar(total, done, width=min(free, WIDEST_BAR)))
        line.add_row(*cells, told)
        return line

    def _fitting_rows(self, most: int) -> Iterator[Text]:
        """At most `most` lines; the last one counts those that it stands for."""
        rows = [self._rows[slot] for slot in sorted(self._rows)]
        shown = rows if len(rows) <= most else rows[: max(most - 1, 0)]
        widest = max(self._console.width - FIGURES_WIDTH, NARROWEST_BAR)
        names = [_label(row.busy) for row in rows]
        self._name_width = min(max([self._name_width, *map(cell_len, names)]), widest)
        for row, name in zip(shown, names, strict=False):
            yield _line(row, _shortened(name, self._name_width))
        if len(shown) < len(rows) and most > 0:
            yield Text(f"  + {len(rows) - len(shown)} more", style="dim")


def on_terminal(stream: TextIO) -> TerminalProgress:
    """For the terminal that `stream` writes to."""
    return TerminalProgress(Console(file=stream))


def _told(figures: Figures) -> Iterable[str]:
    """In cells of constant width, so that nothing jumps."""
    if files := figures.files:
        total = str(files.num_files)
        yield f"{files.num_whole:>{len(total)}}/{total} files"
    yield f"{shown_bytes(figures.done_bytes):>8} of {shown_bytes(figures.total_bytes)}"
    yield f"{shown_bytes(round(figures.rate)) + '/s':>10}"
    if figures.left_s is not None:
        yield f"{format_duration(figures.left_s)} left"
    if figures.num_checks:
        yield f"checking {figures.num_checks}"


def _label(busy: Busy) -> str:
    return printable(busy.names[0]) if len(busy.names) == 1 else f"{len(busy.names)} files"


def _line(row: _Row, name: str) -> Text:
    doing = "  checking" if row.busy.is_check else ""
    rate = shown_bytes(round(row.rate.per_second)) + "/s"
    text = f"  {name}  {shown_bytes(row.busy.num_bytes):>9}  {rate:>11}{doing}"
    return Text(text, no_wrap=True, overflow="crop")


def _shortened(name: str, width: int) -> str:
    """`name` in exactly `width` cells, without its beginning: files differ at their ends."""
    while cell_len(name) > width:
        name = "…" + name[2:]
    return set_cell_size(name, width)
