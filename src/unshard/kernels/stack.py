"""All layers of a decoder by one call, for steps of few rows."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from unshard.kernels import norm
from unshard.kernels.attention import Job, PagedAttention
from unshard.kernels.embedding import Tables
from unshard.kernels.library import compiled

MOST_ROWS = 64
"""Of one call. With more the parts take so long that what lies between them does not count."""

_NO_MEMORY, _NO_SUCH_ROW = 1, 2
"""`StackEnd` of native/stack.h."""


class StackLinear(ctypes.Structure):
    """`StackLinear` of native/stack.h: a rounded weight, or one as it is in files."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("rounded", "weight", "bias")),
        ("in_features", ctypes.c_int64),
        ("out_features", ctypes.c_int64),
    )


class _Layer(ctypes.Structure):
    """`StackLayer` of native/stack.h."""

    _fields_ = (
        ("attention_norm", norm.Weight),
        ("ffn_norm", norm.Weight),
        ("kvq", StackLinear * 3),
        *((name, StackLinear) for name in ("out", "fc1", "fc2")),
    )


class _Job(ctypes.Structure):
    """`StackJob` of native/stack.h."""

    _fields_ = (
        ("layers", ctypes.c_void_p),
        ("caches", ctypes.c_void_p),
        ("num_layers", ctypes.c_int64),
        ("attention", Job),
        ("tables", Tables),
        *((name, ctypes.c_void_p) for name in ("ids", "positions", "x")),
        *((name, ctypes.c_int64) for name in ("rows", "hidden", "ffn")),
        ("norm", norm.Weight),
        ("is_bf16", ctypes.c_int32),
        ("pre_norm", ctypes.c_int32),
    )


@dataclass(frozen=True, slots=True)
class StackLayer:
    """Where the kernels find the weights of one layer, all of which have to stay."""

    attention_norm: norm.Weight
    ffn_norm: norm.Weight
    kvq: Sequence[StackLinear]
    """K, V and Q, or one that is all of them."""
    out: StackLinear
    fc1: StackLinear
    fc2: StackLinear


class DecoderStack:
    """The layers of a decoder, and the norm behind them where they begin with theirs."""

    def __init__(
        self,
        layers: Sequence[StackLayer],
        last_norm: norm.Weight | None,
        dtype: torch.dtype,
        most_rows: int,
        tables: Tables | None,
    ) -> None:
        """Without `last_norm` the norms of a layer follow its sums. `dtype` (fp32 or bf16) is that
        of hidden states and of weights that are not rounded; the kernels multiply up to `most_rows`
        rows by them. With `tables`, whose sums are of `dtype`, tokens can go in."""
        self.most_rows = min(MOST_ROWS, most_rows)
        self._dtype = dtype
        self._last_norm = last_norm
        self._tables = tables
        self._hidden = layers[0].fc1.in_features
        self._ffn = layers[0].fc1.out_features
        self._layers = (_Layer * len(layers))(*map(_native, layers))

    @property
    def embeds(self) -> bool:
        """Whether tokens can go in."""
        return self._tables is not None

    def of_tokens(self, ids: Tensor, positions: Tensor, attention: PagedAttention) -> Tensor:
        """(T,) and (T,) int64, rows of the tables -> (T, D): a call with the sum of both.

        Raises:
            IndexError: a table has no such row.
            ValueError: numbers of another kind, or not as many of both.
            UsageError: the kernels are not compiled.
            MemoryError: as of a call.
        """
        if {ids.dtype, positions.dtype} != {torch.int64} or ids.shape != positions.shape:
            raise ValueError("ids and positions have to be int64, one of each for a row")
        ids, positions = ids.contiguous(), positions.contiguous()
        x = torch.empty(len(ids), self._hidden, dtype=self._dtype)
        job = self._job(x, attention)
        job.tables, job.ids, job.positions = self._tables, ids.data_ptr(), positions.data_ptr()
        self._run(job, attention)
        return x

    def __call__(self, x: Tensor, attention: PagedAttention) -> Tensor:
        """(T, D) -> (T, D) after all layers and the last norm, in the memory of `x`; T is up to
        `most_rows`.

        Bit for bit what they compute one by one.

        Raises:
            UsageError: the kernels are not compiled.
            MemoryError: there is none for what lies between the parts of a layer.
        """
        x = x.contiguous()
        self._run(self._job(x, attention), attention)
        return x

    def _job(self, x: Tensor, attention: PagedAttention) -> _Job:
        return _Job(
            layers=ctypes.addressof(self._layers),
            num_layers=len(self._layers),
            attention=attention.job(x.dtype),
            x=x.data_ptr(),
            rows=len(x),
            hidden=self._hidden,
            ffn=self._ffn,
            norm=self._last_norm or norm.Weight(),
            is_bf16=self._dtype is torch.bfloat16,
            pre_norm=self._last_norm is not None,
        )

    def _run(self, job: _Job, attention: PagedAttention) -> None:
        library = compiled()
        caches = (ctypes.c_void_p * len(attention.caches))(
            *(cache.data_ptr() for cache in attention.caches)
        )
        job.caches = ctypes.addressof(caches)
        ended = library.stack(library.number, torch.get_num_threads(), ctypes.addressof(job))
        if ended == _NO_MEMORY:
            raise MemoryError(f"no memory to compute {job.rows} rows of {job.hidden} hidden states")
        if ended == _NO_SUCH_ROW:
            raise IndexError("a token or a position is not in its table")


def _native(layer: StackLayer) -> _Layer:
    kvq = (StackLinear * 3)(*layer.kvq)
    return _Layer(layer.attention_norm, layer.ffn_norm, kvq, layer.out, layer.fc1, layer.fc2)
