"""What a CUDA graph is, on a CPU: the operations of a computation and the memory they ran over.

A replay runs no Python of the computation. What it took from the host while it was recorded stays
as it was then, and what it would ask the device for is refused as a capture refuses it.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from unshard.engine.graphs import Recording

READS_A_VALUE = ("_local_scalar_dense", "item", "nonzero", "is_nonzero", "equal")


class _Operations(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.done: list[tuple] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.overloadpacket.__name__ in READS_A_VALUE:
            raise RuntimeError(f"{func} waits for the device")
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        self.done.append((func, args, kwargs, result))
        return result


def _tensors(tree) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


def _storages(tree) -> set[int]:
    return {tensor.untyped_storage()._cdata for tensor in _tensors(tree)}


class OperationRecorder:
    """A `Record`; knows what it recorded and how often each was replayed."""

    def __init__(self) -> None:
        self.replays: list[int] = []
        self.operations: list[list[tuple]] = []

    def __call__(self, compute: Callable[[], Tensor]) -> Recording:
        compute()
        with _Operations() as operations:
            result = compute()
        number = len(self.replays)
        self.replays.append(0)
        self.operations.append(operations.done)
        # Whoever takes the result without a replay is seen.
        result.fill_(torch.nan)

        def replay() -> None:
            self.replays[number] += 1
            for func, args, kwargs, before in operations.done:
                after = func(*args, **kwargs)
                for old, new in zip(_tensors(before), _tensors(after), strict=True):
                    if not _storages(old) & _storages((args, kwargs)):
                        old.copy_(new)

        return Recording(replay, result)
