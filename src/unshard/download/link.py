"""The link of one download, which may be replaced while it is used."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from datetime import datetime
from typing import Protocol

from unshard.download.doubt import Doubt
from unshard.download.url import PresignedTemplate
from unshard.errors import UsageError

Accept = Callable[[PresignedTemplate], None]
"""Raises UsageError for a link that is not for the files of this download."""
Sleep = Callable[[float], None]
"""Waits so many seconds; raises to end the work."""
Note = Callable[[str], None]
"""Tells a person one line."""


class LinkSource(Protocol):
    """Where fresh links come from. No method shows a link's query."""

    is_unattended: bool
    """Whether it needs nobody to act."""

    def first(self) -> PresignedTemplate:
        """The link to begin with.

        Raises:
            UsageError, LinkRefusedError: there is none.
        """

    def fresh(
        self, refused: PresignedTemplate, accept: Accept, sleep: Sleep, note: Note
    ) -> PresignedTemplate:
        """A link, accepted by `accept`, to go on with where `refused` was refused.

        Raises:
            LinkRefusedError: there is none.
        """


class Link:
    """The link that requests go by, and how many came before it. Safe from many threads."""

    def __init__(self, template: PresignedTemplate, source: LinkSource | None = None) -> None:
        self._held = (template, 0)
        self._source = source
        self._doubts = [Doubt()]
        self._names: tuple[str, ...] = ()
        self._folder: str | None = None
        self._renewing = threading.Lock()

    @property
    def held(self) -> tuple[PresignedTemplate, int]:
        """The current link and its generation, which belong together."""
        return self._held

    @property
    def current(self) -> PresignedTemplate:
        return self._held[0]

    @property
    def generation(self) -> int:
        return self._held[1]

    @property
    def names(self) -> tuple[str, ...]:
        """All files that it is for."""
        return self._names

    def doubt(self, generation: int) -> Doubt:
        """What is known of the link of that generation."""
        return self._doubts[generation]

    @property
    def final_end(self) -> datetime | None:
        """When it ends for good (UTC); None where that is unknown or renewed by itself."""
        if self._source and self._source.is_unattended:
            return None
        return self.current.expires_at()

    def expect(self, names: Iterable[str], *, same_folder: bool) -> None:
        """Take only fresh links that can stand for all `names`; with `same_folder` only from
        the folder of the current one, where nothing else tells two releases apart.

        Raises:
            UsageError: the current link cannot stand for one of them.
        """
        self._names = tuple(names)
        self._folder = self.current.folder if same_folder else None
        self._accept(self.current)

    def renew(self, failed_generation: int, why: str, *, sleep: Sleep, note: Note) -> bool:
        """Have a link newer than the one of `failed_generation`, refused because of `why`.

        The first thread to come asks the source, the others wait for it. False when there
        is no source.

        Raises:
            LinkRefusedError: the source has no fresh link for these files.
            CancelledError: from `sleep`.
        """
        if self._source is None:
            return False
        with self._renewing:
            sleep(0)  # whoever waited for the lock may have been stopped meanwhile
            refused, generation = self._held
            if generation == failed_generation:
                note(why)
                fresh = self._source.fresh(refused, self._accept, sleep, note)
                self._doubts.append(Doubt())
                self._held = (fresh, generation + 1)
                note(f"going on with a fresh link{_until(fresh)}")
        return True

    def _accept(self, template: PresignedTemplate) -> None:
        for name in self._names:
            template.path_of(name)
        if self._folder not in (None, template.folder):
            raise UsageError(
                f"it is for {template.folder}, and this download is from {self._folder}",
                hint="without a manifest nothing tells the weights of two folders apart",
            )


def _until(template: PresignedTemplate) -> str:
    end = template.expires_at()
    return f", good until {end:%Y-%m-%d %H:%M} UTC" if end else ""
