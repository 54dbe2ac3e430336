"""Weights as torch tensors without memory: sliced as lazily as in the files, read when copied.

A loader that gives each rank its slice (`weight.narrow(…)`, then `parameter.copy_(…)`) reads that
slice alone, wherever it lies, and nobody has to know which slices it takes.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, ClassVar, Self

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from unshard.errors import UsageError
from unshard.execute.model_sink import TORCH_DTYPES, from_bits
from unshard.execute.workers import DEFAULT_WORKERS
from unshard.library.lazy_tensor import LazyTensor
from unshard.library.read import read_elements
from unshard.parallel.fill import BLOCK_BYTES, NO_GAP


class BytesRead:
    """Counts what a reader reads; several threads may."""

    def __init__(self) -> None:
        self.count = 0
        self._lock = threading.Lock()

    def __call__(self, path: str, offset: int, content: memoryview) -> None:  # noqa: ARG002
        with self._lock:
            self.count += len(content)


class LazyWeight(Tensor):
    """A tensor that looks like any other and holds no values.

    Slicing it gives another one; `target.copy_(it)` reads into `target` block by block; whatever
    else is asked of it reads all of it first. Nothing is kept.
    """

    lazy: LazyTensor
    num_read: BytesRead

    @staticmethod
    def __new__(cls: type[Self], lazy: LazyTensor, num_read: BytesRead) -> Self:
        if lazy.dtype not in TORCH_DTYPES:
            raise UsageError(f"tensor {lazy.name}: torch does not compute with {lazy.dtype.name}")
        weight: Self = Tensor._make_wrapper_subclass(  # noqa: SLF001
            cls, lazy.shape, dtype=TORCH_DTYPES[lazy.dtype]
        )
        weight.lazy, weight.num_read = lazy, num_read
        return weight

    def __repr__(self) -> str:  # type: ignore[override]  # there are no contents to be given
        return f"<LazyWeight of {self.lazy!r}>"

    __torch_function__: ClassVar[Any] = torch._C._disabled_torch_function_impl  # noqa: SLF001

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]  # torch's own is typed as a static method
        cls,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        lazily = _LAZILY.get(func)
        found = lazily(*args) if lazily is not None and not kwargs else None
        if found is not None:
            return found
        args, options = tree_map_only(cls, cls.read, (args, dict(kwargs or {})))
        return func(*args, **options)

    def of(self, part: LazyTensor) -> LazyWeight:
        """A part of the same tensor."""
        return LazyWeight(part, self.num_read)

    def read(self) -> Tensor:
        """All of it, as a plain CPU tensor."""
        bits = read_elements(self.lazy.stored, self.lazy.ranges, NO_GAP, self.num_read)
        return from_bits(bits.reshape(self.lazy.shape), self.lazy.dtype)

    def read_into(self, target: Tensor) -> None:
        """Fills `target`, of the same shape, in any dtype and on any device. Memory beyond it is a
        block per thread."""
        lazy = self.lazy
        step = max(1, BLOCK_BYTES * len(lazy) // max(1, lazy.nbytes))

        def read(start: int) -> None:
            with torch.inference_mode():
                block = self.of(lazy[start : start + step]).read()
                target[start : start + step].copy_(block)

        with ThreadPoolExecutor(DEFAULT_WORKERS) as pool:
            for _ in pool.map(read, range(0, len(lazy), step)):
                pass


def _slice(
    weight: LazyWeight,
    dim: int = 0,
    start: int | None = None,
    end: int | None = None,
    step: int = 1,
) -> LazyWeight:
    keys = [slice(None)] * weight.dim()
    keys[dim] = slice(start, end, step)
    return weight.of(weight.lazy[tuple(keys)])


def _select(weight: LazyWeight, dim: int, index: int) -> LazyWeight:
    keys: list[slice | int] = [slice(None)] * weight.dim()
    keys[dim] = index
    return weight.of(weight.lazy[tuple(keys)])


def _same(weight: LazyWeight) -> LazyWeight:
    return weight.of(weight.lazy)


def _copy(target: Tensor, source: Tensor, non_blocking: bool = False) -> Tensor | None:  # noqa: ARG001
    if not isinstance(source, LazyWeight) or source.shape != target.shape or not source.dim():
        return None
    source.read_into(target)
    return target


_LAZILY: Mapping[Any, Callable[..., Tensor | None]] = {
    torch.ops.aten.slice.Tensor: _slice,
    torch.ops.aten.select.int: _select,
    torch.ops.aten.detach.default: _same,
    torch.ops.aten.alias.default: _same,
    torch.ops.aten.copy_.default: _copy,
}
"""What is done without reading first; None where it has to be read after all."""
