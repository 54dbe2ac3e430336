"""Ranks of one machine that share memory: here two to four threads, each with a side of its own."""

from __future__ import annotations

import os
import subprocess
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from unshard.errors import WorkerLostError
from unshard.kernels.library import kernels
from unshard.parallel import shared_memory
from unshard.parallel.ranks import Ranks
from unshard.parallel.shared_memory import SharedMemory, create, find

pytestmark = pytest.mark.skipif(kernels() is None, reason="the kernels are not compiled")


class Side(Ranks):
    """What `Ranks` does once it shares memory."""

    def __init__(self, rank, shared):
        self._number, self._shared, self._check = rank, shared, lambda: None

    rank = property(lambda self: self._number)
    size = property(lambda self: self._shared._size)


@pytest.fixture
def sides():
    descriptors = []

    def sides(size):
        descriptor, told = create(size)
        others = [find(told) for _ in range(size - 1)]
        descriptors.extend([descriptor, *others])
        return [
            Side(rank, SharedMemory(each, rank, size, kernels()))
            for rank, each in enumerate([descriptor, *others])
        ]

    yield sides
    for descriptor in descriptors:
        os.close(descriptor)


def on_all(sides, call):
    with ThreadPoolExecutor(len(sides)) as pool:
        return list(pool.map(call, sides))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("size", [2, 3, 4])
def test_all_have_the_sum_in_the_order_of_ranks(sides, size, dtype, monkeypatch):
    monkeypatch.setattr(shared_memory, "SLOT_BYTES", 256)  # many pieces, slots used many times
    torch.manual_seed(1)
    for shape in [(1, 1), (3, 40), (1, 128), (25, 129)]:
        parts = torch.randn(size, *shape).to(dtype)
        expected = parts[0].float()
        for part in parts[1:]:
            expected = expected + part
        together = sides(size)
        for found in on_all(together, lambda side, parts=parts: side.sum(parts[side.rank].clone())):
            assert torch.equal(found, expected.to(dtype))
        columns = on_all(together, lambda side, parts=parts: side.gather_columns(parts[side.rank]))
        assert torch.equal(columns[0], torch.cat(list(parts), dim=1))
        for found in on_all(together, lambda side, parts=parts: side.spread(parts[side.rank])):
            assert torch.equal(found, parts[0])


def test_messages_of_any_length_arrive(sides, monkeypatch):
    monkeypatch.setattr(shared_memory, "SLOT_BYTES", 4096)
    first, second = sides(2)
    messages = [list(range(length)) for length in (1, 255, 256, 257, 5000)]

    def other(_):
        return [second.receive() for _ in messages]

    with ThreadPoolExecutor(1) as pool:
        heard = pool.submit(other, None)
        for message in messages:
            first.send(message)
        assert heard.result() == messages


def test_a_message_follows_a_step(sides):
    """Which is computed in inference mode; the message to end is not sent in it."""
    first, second = sides(2)

    def other(_):
        with torch.inference_mode():
            return [second.receive() for _ in range(2)]

    with ThreadPoolExecutor(1) as pool:
        heard = pool.submit(other, None)
        with torch.inference_mode():
            first.send([3])
        first.send([0])
        assert heard.result() == [[3], [0]]


def test_turns_wrap_around(sides):
    together = sides(2)
    for side in together:
        side._shared._turn = 2**32 - 3
    start = 2**32 - 3
    for side in together:  # as if that many had been
        view = side._shared._file
        for rank in range(2):
            at = 64 * (1 + rank)
            view[at : at + 4] = start.to_bytes(4, "little")
    for _ in range(6):
        for found in on_all(together, lambda side: side.sum(torch.ones(2))):
            assert found.tolist() == [2, 2]


@pytest.mark.parametrize("how", ["dead", "silent", "told"])
def test_nobody_waits_for_the_lost(sides, how, monkeypatch):
    monkeypatch.setattr(shared_memory, "_PATIENCE_NS", 1_000_000)
    side, _ = sides(2)
    words = "rank 1 of 2 has ended"
    if how == "dead":
        ended = subprocess.Popen(["/bin/true"])
        ended.wait()
        side._shared._pids[1] = ended.pid
    elif how == "silent":
        monkeypatch.setattr(shared_memory, "SILENCE_SECONDS", 0)
        words = "rank 1 of 2 said nothing"
    else:
        words = "rank 1 was ended by SIGKILL"

        def check():
            raise WorkerLostError(words)

        side._check = check
    with pytest.raises(WorkerLostError, match=words):
        side.sum(torch.ones(1))


def test_what_is_not_this_machines_is_not_found():
    descriptor, told = create(2)
    pid, number, token = told.split()
    assert find(f"{pid} {number} {'00' * 16}") is None
    assert find(f"{pid} 999999 {token}") is None
    assert find(f"{2**22 + 1} {number} {token}") is None
    os.close(descriptor)
