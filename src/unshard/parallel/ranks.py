"""A group of ranks: `torch.distributed` connects them, gloo between CPUs, NCCL between GPUs. On one
machine's CPUs they share memory once they are connected."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor
from torch._C._distributed_c10d import Store

from unshard.kernels.library import kernels
from unshard.parallel.place import SILENCE_SECONDS, Place
from unshard.parallel.shared_memory import SharedMemory, create, find

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
        dist.all_reduce(torch.zeros(1, device=device))
        self._shared = self._share() if device.type == "cpu" else None

    @property
    def rank(self) -> int:
        return self.place.rank

    @property
    def size(self) -> int:
        return self.place.size

    def _share(self) -> SharedMemory | None:
        """Memory of all ranks, if they are on one machine and all have the native kernels."""
        library, descriptor, told = kernels(), None, ""
        if self.rank == 0 and library is not None:
            descriptor, told = create(self.size)
        message = [told]
        dist.broadcast_object_list(message, src=0)
        if self.rank and library is not None and message[0]:
            descriptor = find(message[0])
        shared = None
        if library is not None and descriptor is not None:
            shared = SharedMemory(descriptor, self.rank, self.size, library)
        is_shared = self.least(shared is not None)
        if descriptor is not None:
            os.close(descriptor)
        return shared if is_shared else None

    def sum(self, x: Tensor) -> Tensor:
        """The sum of all ranks' `x`, added in fp32; see `Group`."""
        if self._shared is not None:
            x = x.contiguous()
            for piece, parts in self._shared.pieces(x, self._check):
                first, second, *others = parts
                if x.dtype is not torch.float32:
                    first = first.float()
                total = first + second
                for other in others:
                    total += other
                piece.copy_(total)
            return x
        if x.dtype is torch.float32 or x.device.type != "cpu":
            dist.all_reduce(x)
            return x
        wide = x.float()
        dist.all_reduce(wide)
        return wide.to(x.dtype)

    def gather_columns(self, x: Tensor) -> Tensor:
        """On rank 0 all ranks' columns side by side; see `Group`."""
        if self._shared is not None:
            return self._gathered(self._shared, x)
        if self.rank:
            dist.gather(x, dst=0)
            return x
        parts = [torch.empty_like(x) for _ in range(self.size)]
        dist.gather(x, parts, dst=0)
        return torch.cat(parts, dim=1)

    def _gathered(self, shared: SharedMemory, x: Tensor) -> Tensor:
        rows, columns = x.shape
        runs = []
        for _, parts in shared.pieces(x.contiguous(), self._check):
            if self.rank == 0:
                runs.append(parts.clone())
        if self.rank:
            return x
        by_rank = torch.cat(runs, dim=1).view(self.size, rows, columns)
        return by_rank.transpose(0, 1).reshape(rows, self.size * columns)

    def spread(self, x: Tensor) -> Tensor:
        """Rank 0's contiguous `x` on all ranks; elsewhere it is overwritten."""
        if self._shared is not None:
            for piece, parts in self._shared.pieces(x, self._check):
                piece.copy_(parts[0])
            return x
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
