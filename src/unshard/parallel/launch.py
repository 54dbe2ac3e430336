"""Taking the place that `torchrun`, or what sets the same variables, gave this process."""

from __future__ import annotations

import os

from unshard.errors import WorkerLostError
from unshard.parallel.links import Followers, Leader, no_answer
from unshard.parallel.place import Place
from unshard.parallel.rendezvous import Store, join_seconds, launched_store
from unshard.parallel.watch import first_line


def lead(followers: Followers, place: Place) -> Store:
    """Rank 0's side of the meeting; returns when all ranks are there.

    Raises:
        UsageError: UNSHARD_JOIN_SECONDS is no number.
        WorkerLostError: a rank did not come, or MASTER_PORT cannot be had.
    """
    seconds = join_seconds(os.environ)
    store = _store(place, seconds)
    _take_interface(followers.gather(store, seconds))
    return store


def follow(leader: Leader, place: Place) -> Store:
    """The side of every other rank; raises as `lead` does."""
    seconds = join_seconds(os.environ)
    store = _store(place, seconds)
    _take_interface(leader.find(os.environ["MASTER_ADDR"], store, seconds))
    return store


def _store(place: Place, seconds: float) -> Store:
    try:
        return launched_store(place, os.environ, seconds)
    except RuntimeError as error:
        where = f"{os.environ['MASTER_ADDR']} port {os.environ['MASTER_PORT']}"
        if place.rank == 0:
            raise WorkerLostError(f"rank 0 cannot wait at {where}: {first_line(error)}") from error
        raise no_answer(where, error) from error


def _take_interface(name: str | None) -> None:
    """By itself gloo takes the one of the host's own name, which is often 127.0.1.1."""
    if name is not None:
        os.environ.setdefault("GLOO_SOCKET_IFNAME", name)
