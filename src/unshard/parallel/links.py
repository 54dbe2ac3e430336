"""Ranks of several hosts: each keeps one TCP connection to rank 0, whose end is that of a rank.

gloo and NCCL say too little when a host dies: NCCL nothing, gloo neither who nor why, and both only
to a rank that asks. Here the kernel says it at once, or after `SILENT_SECONDS` where the host took
its kernel along.

    follower ── token, rank, host ──► rank 0
    follower ◄── go, interface ────── rank 0      when all are there
    follower ◄── end, why ──────────► rank 0      whoever ends first; an empty why: in peace
"""

from __future__ import annotations

import contextlib
import json
import secrets
import socket
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

from unshard.errors import UnshardError, WorkerLostError
from unshard.parallel.interfaces import interface_of, is_inner, local_address
from unshard.parallel.place import Place
from unshard.parallel.rendezvous import Store
from unshard.parallel.watch import Watch, first_line

SILENT_SECONDS = 30
"""After so long without a packet a host is taken for dead."""
_HELLO_SECONDS = 10
"""How long one that connects may take to say who it is."""
_LONGEST_LINE = 4096
_KEY = "unshard/leader"


class _Link:
    """One connection of JSON lines."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self._lines = connection.makefile("rb")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, SILENT_SECONDS // 2)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, SILENT_SECONDS // 6)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 1000 * SILENT_SECONDS)

    def say(self, **said: Any) -> None:
        """Nothing where nobody listens any more."""
        with contextlib.suppress(OSError):
            self.connection.sendall(json.dumps(said).encode() + b"\n")

    def hear(self) -> dict[str, Any]:
        """The next line; {} at the end, or where it is none."""
        with contextlib.suppress(OSError, ValueError, RecursionError):
            heard = json.loads(self._lines.readline(_LONGEST_LINE) or b"{}")
            return heard if isinstance(heard, dict) else {}
        return {}

    def end(self, why: str) -> None:
        """The last word; whoever hears this side comes to the end."""
        self.say(end=why[: _LONGEST_LINE // 8])
        with contextlib.suppress(OSError):
            self.connection.shutdown(socket.SHUT_RDWR)

    def last(self) -> str | None:
        """What is said last, then the connection is closed; None where it just ended."""
        why = self.hear().get("end")
        self.close()
        return why if isinstance(why, str) else None

    def close(self) -> None:
        self._lines.close()
        self.connection.close()


class Followers(Watch):
    """All other ranks, as rank 0 sees them."""

    def __init__(self, place: Place, abandon: Callable[[WorkerLostError], None]) -> None:
        super().__init__(abandon)
        self._size = place.size
        self._token = secrets.token_hex(16)
        self._links: dict[int, _Link] = {}
        self._hosts: dict[int, str] = {}
        self._came = threading.Condition()

    def gather(self, store: Store, seconds: float) -> str | None:
        """Waits for all; the interface that the group's connections take, where it can be told.

        Raises:
            WorkerLostError: not all came within `seconds`.
        """
        # The host that others reach it by may be a name of 127.0.1.1 here: listen on all.
        dual = socket.has_dualstack_ipv6()
        family = socket.AF_INET6 if dual else socket.AF_INET
        with socket.create_server(("", 0), family=family, dualstack_ipv6=dual) as listening:
            store.set(_KEY, json.dumps([listening.getsockname()[1], self._token]))
            threading.Thread(target=self._accept, args=(listening,), daemon=True).start()
            with self._came:
                self._came.wait_for(lambda: len(self._links) == self._size - 1, seconds)
                missing = [rank for rank in range(1, self._size) if rank not in self._links]
            with contextlib.suppress(OSError):
                listening.shutdown(socket.SHUT_RDWR)  # wakes the thread
        if missing:
            late = self._late(missing, seconds)
            self._end_all(late.message)
            for link in list(self._links.values()):
                link.close()
            raise late
        interface = self._interface()
        for rank, link in self._links.items():
            link.say(go=interface)
            threading.Thread(target=self._hear, args=(rank, link), daemon=True).start()
        return interface

    def close(self) -> None:
        """End all in peace."""
        self.dismiss()
        self._end_all("")

    def kill(self) -> None:
        """End all; those that were not ended in peace hear why, as far as it is known."""
        self._end_all(self.lost.message if self.lost is not None else "rank 0 failed")

    def _end_all(self, why: str) -> None:
        for link in list(self._links.values()):  # one may come just now
            link.end(why)

    def _accept(self, listening: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = listening.accept()
                threading.Thread(target=self._greet, args=(connection,), daemon=True).start()

    def _greet(self, connection: socket.socket) -> None:
        connection.settimeout(_HELLO_SECONDS)
        link = _Link(connection)
        hello = link.hear()
        rank = hello.get("rank")
        if hello.get("token") != self._token or not isinstance(rank, int):
            link.close()
            return
        connection.settimeout(None)
        with self._came:
            if 0 < rank < self._size and rank not in self._links:
                self._links[rank], self._hosts[rank] = link, str(hello.get("host"))
                self._came.notify_all()
                return
        which = "there already" if rank in self._links else "none of them"
        link.end(f"rank 0 leads {self._size} ranks, and rank {rank} is {which}")
        link.close()

    def _hear(self, rank: int, link: _Link) -> None:
        self._lose(_ended(rank, self._size, self._hosts[rank], link.last()))

    def _interface(self) -> str | None:
        """The one towards another host, if there is one."""
        addresses = [local_address(link.connection) for link in self._links.values()]
        outer = [address for address in addresses if not is_inner(address)]
        return interface_of((outer or addresses)[0])

    def _late(self, missing: list[int], seconds: float) -> WorkerLostError:
        numbers = ", ".join(map(str, missing))
        return WorkerLostError(
            f"{self._size - len(missing)} of {self._size} ranks came within {seconds:g} s; "
            f"missing: {numbers}",
            hint="look at what their hosts say, and whether they reach this one",
        )


class Leader(Watch):
    """Rank 0, as another rank sees it."""

    def __init__(self, place: Place, abandon: Callable[[WorkerLostError], None]) -> None:
        super().__init__(abandon)
        self._place = place
        self._link: _Link | None = None

    def find(self, host: str, store: Store, seconds: float) -> str | None:
        """Waits until all ranks are there; the interface that this one's connections take, where
        it can be told.

        Raises:
            WorkerLostError: rank 0 does not answer, or somebody did not come.
        """
        deadline = time.monotonic() + seconds
        try:
            store.wait([_KEY], timedelta(seconds=seconds))
            port, token = json.loads(store.get(_KEY))
            connection = socket.create_connection((host, port), seconds)
        except (RuntimeError, OSError) as error:  # the store's are RuntimeErrors
            raise no_answer(host, error) from error
        self._link = link = _Link(connection)
        link.say(token=token, rank=self._place.rank, host=socket.gethostname())
        # Rank 0's own clock may have begun a little later.
        connection.settimeout(max(0.0, deadline - time.monotonic()) + SILENT_SECONDS)
        answer = link.hear()
        if "go" not in answer:
            link.close()
            raise WorkerLostError(answer.get("end") or f"rank 0 on {host} is gone")
        connection.settimeout(None)
        threading.Thread(target=self._hear, args=(host, link), daemon=True).start()
        address = local_address(connection)
        return answer["go"] if is_inner(address) else interface_of(address)

    def tell(self, error: UnshardError) -> None:
        """Rank 0 is to say why this one ends."""
        if self._link is not None:
            self._link.end(error.message)

    def close(self) -> None:
        """End in peace, after rank 0 said so."""
        self.dismiss()

    def kill(self) -> None:
        """There is nobody to end."""

    def _hear(self, host: str, link: _Link) -> None:
        why = link.last()
        if why == "":
            self.dismiss()
            return
        self._lose(why or _ended(0, self._place.size, host, None))


def no_answer(host: str, error: Exception) -> WorkerLostError:
    """Rank 0 was not found."""
    return WorkerLostError(
        f"rank 0 does not answer on {host}: {first_line(error)}",
        hint="MASTER_ADDR has to be rank 0's host, which this one has to reach",
    )


def _ended(rank: int, size: int, host: str, why: str | None) -> str:
    return f"rank {rank} of {size} on {host} " + (f"ended: {why}" if why else "is gone")
