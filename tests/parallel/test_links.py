"""Ranks of several hosts: who did not come, who ended and why, on every rank."""

from __future__ import annotations

import json
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from torch.distributed import HashStore

from unshard.errors import FormatError, UsageError, WorkerLostError
from unshard.parallel import watch
from unshard.parallel.interfaces import interface_of
from unshard.parallel.links import Followers, Leader
from unshard.parallel.place import Place
from unshard.parallel.rendezvous import join_seconds

SECONDS = 60


class Group:
    """Rank 0 and the others, in one process."""

    def __init__(self, size: int) -> None:
        self.store = HashStore()
        self.abandoned: list[str] = []
        self.followers = Followers(Place(0, size, 0, size), self._abandon)
        self.leaders = [Leader(Place(r, size, r, size), self._abandon) for r in range(1, size)]

    def _abandon(self, lost: WorkerLostError) -> None:
        self.abandoned.append(lost.message)

    def close(self) -> None:
        """In peace, and until all connections are closed."""
        self.followers.close()
        for link in (*self.followers._links.values(), *(leader._link for leader in self.leaders)):
            while link is not None and link.connection.fileno() >= 0:
                time.sleep(0.001)

    def meet(self) -> list[str | None]:
        with ThreadPoolExecutor() as pool:
            others = [
                pool.submit(leader.find, "127.0.0.1", self.store, SECONDS)
                for leader in self.leaders
            ]
            return [
                self.followers.gather(self.store, SECONDS),
                *(other.result() for other in others),
            ]


@pytest.fixture
def group(monkeypatch):
    monkeypatch.setattr(watch, "END_SECONDS", 0.05)
    group = Group(3)
    assert group.meet() == ["lo"] * 3
    yield group
    group.close()


def test_a_rank_whose_connection_ends_is_named_to_all_others(group) -> None:
    told = threading.Event()
    group.followers.on_loss(told.set)
    group.leaders[1]._link.connection.shutdown(socket.SHUT_RDWR)
    lost = group.followers.wait_for_loss(SECONDS)
    assert lost.message == f"rank 2 of 3 on {socket.gethostname()} is gone"
    assert told.wait(SECONDS)
    assert group.leaders[0].wait_for_loss(SECONDS).message == lost.message


def test_a_rank_says_why_it_ends(group) -> None:
    group.leaders[0].tell(FormatError("x.pt", "is short"))
    lost = group.followers.wait_for_loss(SECONDS)
    assert lost.message == f"rank 1 of 3 on {socket.gethostname()} ended: x.pt: is short"


def test_an_end_in_peace_is_no_loss(group) -> None:
    group.close()
    assert not any(leader.lost for leader in (group.followers, *group.leaders))
    assert group.abandoned == []


def test_when_rank_0_is_gone_the_others_know(group) -> None:
    group.followers.dismiss()  # so that it does not say that the first of these was lost
    for link in group.followers._links.values():
        link.connection.shutdown(socket.SHUT_RDWR)
    for leader in group.leaders:
        assert leader.wait_for_loss(SECONDS).message == "rank 0 of 3 on 127.0.0.1 is gone"


def test_who_does_not_come_is_counted_and_named_to_those_who_did(monkeypatch) -> None:
    group = Group(4)
    came, links = group.followers._came, group.followers._links
    wait_for = came.wait_for
    # The time is over as soon as rank 2 is there.
    monkeypatch.setattr(came, "wait_for", lambda done, seconds: wait_for(lambda: 2 in links))
    with ThreadPoolExecutor() as pool:
        second = pool.submit(group.leaders[1].find, "127.0.0.1", group.store, SECONDS)
        with pytest.raises(WorkerLostError) as late:
            group.followers.gather(group.store, SECONDS)
        with pytest.raises(WorkerLostError) as heard:
            second.result()
    assert late.value.message == f"2 of 4 ranks came within {SECONDS} s; missing: 1, 3"
    assert late.value.hint
    assert heard.value.message == late.value.message


def test_a_stranger_at_the_port_is_no_rank() -> None:
    group = Group(2)
    with ThreadPoolExecutor() as pool:
        gathered = pool.submit(group.followers.gather, group.store, SECONDS)
        port, _ = json.loads(group.store.get("unshard/leader"))
        for said in (
            b"GET / HTTP/1.0\r\n\r\n",
            b'{"rank": 1, "token": "guessed"}\n',
            b"[]\n",
            b"[" * 4000,
            b"",
        ):
            with socket.create_connection(("127.0.0.1", port), SECONDS) as stranger:
                stranger.sendall(said)
                stranger.shutdown(socket.SHUT_WR)
                assert stranger.recv(1) == b""
        assert not gathered.done()
        group.leaders[0].find("127.0.0.1", group.store, SECONDS)
        gathered.result()
    group.close()


@pytest.mark.parametrize(("rank", "which"), [(1, "there already"), (3, "none of them")])
def test_a_rank_that_has_no_place(rank: int, which: str) -> None:
    group = Group(3)
    wrong = Leader(Place(rank, 4, rank, 4), group._abandon)
    with ThreadPoolExecutor() as pool:
        gathered = pool.submit(group.followers.gather, group.store, SECONDS)
        first = pool.submit(group.leaders[0].find, "127.0.0.1", group.store, SECONDS)
        while 1 not in group.followers._links:
            time.sleep(0.001)
        with pytest.raises(WorkerLostError, match=f"leads 3 ranks, and rank {rank} is {which}"):
            wrong.find("127.0.0.1", group.store, SECONDS)
        group.leaders[1].find("127.0.0.1", group.store, SECONDS)
        assert first.result() == gathered.result() == "lo"
    group.close()


def test_which_interface_has_an_address() -> None:
    assert interface_of("127.0.1.1") == "lo"
    assert interface_of("192.0.2.1") is None  # RFC 5737: nobody's


@pytest.mark.parametrize("told", ["x", "0", "-1", "nan", "inf", ""])
def test_seconds_that_are_none(told: str) -> None:
    assert join_seconds({}) == 300
    assert join_seconds({"UNSHARD_JOIN_SECONDS": "0.5"}) == 0.5
    with pytest.raises(UsageError, match="UNSHARD_JOIN_SECONDS="):
        join_seconds({"UNSHARD_JOIN_SECONDS": told})
