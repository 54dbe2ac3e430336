"""A group of ranks that `torch.distributed` connects: gloo between CPUs, NCCL between GPUs."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor
from torch._C._distributed_c10d import Store

from unshard.parallel.place import SILENCE_SECONDS, Place

FRAME = 256
"""Numbers of a message that go in one piece; few steps have more."""
_POLL_SECONDS = 0.02


class Ranks:
    """This process's side of a group of two or more ranks. One thread at a time."""

    def __init__(
        self, place: Place, store: Store, device: torch.device, check: Callable[[], None]
    ) -> None:
        """Waits for all other ranks. `check` raises when one will never come."""
        self.place = place
        self._check = check
        self._store = store
        backend = "gloo"
        if device.type == "cuda":
            torch.cuda.set_device(device)
            backend = "cpu:gloo,cuda:nccl"
        dist.init_process_group(
            backend,
            store=store,
            rank=place.rank,
            world_size=place.size,
            timeout=timedelta(seconds=SILENCE_SECONDS),
        )
        # NCCL connects at the first call: now, while the store is there.
        self.sum(torch.zeros(1, device=device))

    @property
    def rank(self) -> int:
        return self.place.rank

    @property
    def size(self) -> int:
        return self.place.size

    def sum(self, x: Tensor) -> Tensor:
        """The sum of all ranks' `x`; see `Group`. gloo adds in fp32."""
        if x.dtype is torch.float32 or x.device.type != "cpu":
            dist.all_reduce(x)
            return x
        wide = x.float()
        dist.all_reduce(wide)
        return wide.to(x.dtype)

    def gather_columns(self, x: Tensor) -> Tensor:
        """On rank 0 all ranks' columns side by side; see `Group`."""
        if self.rank:
            dist.gather(x, dst=0)
            return x
        parts = [torch.empty_like(x) for _ in range(self.size)]
        dist.gather(x, parts, dst=0)
        return torch.cat(parts, dim=1)

    def spread(self, x: Tensor) -> Tensor:
        """Rank 0's `x` on all ranks; elsewhere it is overwritten."""
        dist.broadcast(x, src=0)
        return x

    def least(self, number: int) -> int:
        """The least `number` of all ranks."""
        numbers = torch.tensor([number])
        dist.all_reduce(numbers, dist.ReduceOp.MIN)
        return int(numbers)

    def send(self, message: Sequence[int]) -> None:
        """From rank 0 to all others, who `receive`."""
        frame = [len(message), *message[: FRAME - 1]]
        self.spread(torch.tensor(frame + [0] * (FRAME - len(frame))))
        if len(message) >= FRAME:
            self.spread(torch.tensor(message[FRAME - 1 :]))

    def receive(self) -> list[int]:
        """What rank 0 sends next."""
        length, *message = self.spread(torch.zeros(FRAME, dtype=torch.int64)).tolist()
        if length >= FRAME:
            rest = torch.zeros(length - FRAME + 1, dtype=torch.int64)
            return [*message, *self.spread(rest).tolist()]
        return list(message[:length])

    def meet(self) -> None:
        """Wait once for all ranks; see `Group`."""
        self._store.set(f"here/{self.rank}", "")
        while not self._store.check([f"here/{rank}" for rank in range(self.size)]):
            self._check()
            time.sleep(_POLL_SECONDS)

    def leave(self) -> None:
        """Close the connections; the others' next call fails."""
        dist.destroy_process_group()
