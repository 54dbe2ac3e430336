"""MD5 (RFC 1321) of `NUM_LANES` messages side by side: the only module that knows numba.

A single message cannot be hashed faster than its chain of 64 dependent steps a block lets it.
Messages that lie beside each other fill the vector units instead. The loop over lanes is the
outer one of `_compress_block`, with every step written out in it once the compiler has unrolled
the rounds: this is the form that LLVM turns into vectors, with the running state in registers.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
from numba import njit, uint32

from unshard.digest.lanes import NUM_LANES

BLOCK_BYTES = 64

_BLOCK_WORDS = BLOCK_BYTES // 4
_SINES = np.array([int(abs(math.sin(i + 1)) * 2**32) for i in range(64)], np.uint32)
_ROUNDS = ((0, 1), (1, 5), (5, 3), (0, 7))
_ROWS = np.array([(at + step * i) % 16 * NUM_LANES for at, step in _ROUNDS for i in range(16)])
"""Where the word that each of the 64 steps adds begins in the transposed block."""


def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    compiled: Callable[..., Any] = njit(function)
    return compiled


@_compiled
def _step(mixed: Any, a: Any, b: Any, word: Any, sine: Any, bits: Any) -> Any:
    # numba computes 32-bit integers in 64 bits; every cast says that the upper half is nothing.
    x = uint32(mixed + a + word + sine)
    return uint32(b + uint32(uint32(x << uint32(bits)) | uint32(x >> uint32(32 - bits))))


@_compiled
def _four_steps_1(a: Any, b: Any, c: Any, d: Any, words: Any, lane: Any, i: Any) -> Any:
    a = _step(d ^ (b & (c ^ d)), a, b, words[_ROWS[i] + lane], _SINES[i], 7)
    d = _step(c ^ (a & (b ^ c)), d, a, words[_ROWS[i + 1] + lane], _SINES[i + 1], 12)
    c = _step(b ^ (d & (a ^ b)), c, d, words[_ROWS[i + 2] + lane], _SINES[i + 2], 17)
    b = _step(a ^ (c & (d ^ a)), b, c, words[_ROWS[i + 3] + lane], _SINES[i + 3], 22)
    return a, b, c, d


@_compiled
def _four_steps_2(a: Any, b: Any, c: Any, d: Any, words: Any, lane: Any, i: Any) -> Any:
    a = _step(c ^ (d & (b ^ c)), a, b, words[_ROWS[i] + lane], _SINES[i], 5)
    d = _step(b ^ (c & (a ^ b)), d, a, words[_ROWS[i + 1] + lane], _SINES[i + 1], 9)
    c = _step(a ^ (b & (d ^ a)), c, d, words[_ROWS[i + 2] + lane], _SINES[i + 2], 14)
    b = _step(d ^ (a & (c ^ d)), b, c, words[_ROWS[i + 3] + lane], _SINES[i + 3], 20)
    return a, b, c, d


@_compiled
def _four_steps_3(a: Any, b: Any, c: Any, d: Any, words: Any, lane: Any, i: Any) -> Any:
    a = _step(b ^ c ^ d, a, b, words[_ROWS[i] + lane], _SINES[i], 4)
    d = _step(a ^ b ^ c, d, a, words[_ROWS[i + 1] + lane], _SINES[i + 1], 11)
    c = _step(d ^ a ^ b, c, d, words[_ROWS[i + 2] + lane], _SINES[i + 2], 16)
    b = _step(c ^ d ^ a, b, c, words[_ROWS[i + 3] + lane], _SINES[i + 3], 23)
    return a, b, c, d


@_compiled
def _four_steps_4(a: Any, b: Any, c: Any, d: Any, words: Any, lane: Any, i: Any) -> Any:
    a = _step(uint32(c ^ (b | ~d)), a, b, words[_ROWS[i] + lane], _SINES[i], 6)
    d = _step(uint32(b ^ (a | ~c)), d, a, words[_ROWS[i + 1] + lane], _SINES[i + 1], 10)
    c = _step(uint32(a ^ (d | ~b)), c, d, words[_ROWS[i + 2] + lane], _SINES[i + 2], 15)
    b = _step(uint32(d ^ (c | ~a)), b, c, words[_ROWS[i + 3] + lane], _SINES[i + 3], 21)
    return a, b, c, d


@_compiled
def _compress_block(state: Any, words: Any) -> None:
    for lane in range(NUM_LANES):
        a, b = state[lane], state[NUM_LANES + lane]
        c, d = state[2 * NUM_LANES + lane], state[3 * NUM_LANES + lane]
        e, f, g, h = _four_steps_1(a, b, c, d, words, lane, 0)
        e, f, g, h = _four_steps_1(e, f, g, h, words, lane, 4)
        e, f, g, h = _four_steps_1(e, f, g, h, words, lane, 8)
        e, f, g, h = _four_steps_1(e, f, g, h, words, lane, 12)
        e, f, g, h = _four_steps_2(e, f, g, h, words, lane, 16)
        e, f, g, h = _four_steps_2(e, f, g, h, words, lane, 20)
        e, f, g, h = _four_steps_2(e, f, g, h, words, lane, 24)
        e, f, g, h = _four_steps_2(e, f, g, h, words, lane, 28)
        e, f, g, h = _four_steps_3(e, f, g, h, words, lane, 32)
        e, f, g, h = _four_steps_3(e, f, g, h, words, lane, 36)
        e, f, g, h = _four_steps_3(e, f, g, h, words, lane, 40)
        e, f, g, h = _four_steps_3(e, f, g, h, words, lane, 44)
        e, f, g, h = _four_steps_4(e, f, g, h, words, lane, 48)
        e, f, g, h = _four_steps_4(e, f, g, h, words, lane, 52)
        e, f, g, h = _four_steps_4(e, f, g, h, words, lane, 56)
        e, f, g, h = _four_steps_4(e, f, g, h, words, lane, 60)
        state[lane] = uint32(a + e)
        state[NUM_LANES + lane] = uint32(b + f)
        state[2 * NUM_LANES + lane] = uint32(c + g)
        state[3 * NUM_LANES + lane] = uint32(d + h)


@_compiled
def _transpose_block(rows: Any, offsets: Any, words: Any) -> None:
    for lane in range(NUM_LANES):
        row = rows[offsets[lane] : offsets[lane] + _BLOCK_WORDS]
        for word in range(_BLOCK_WORDS):
            words[word * NUM_LANES + lane] = row[word]
        offsets[lane] += _BLOCK_WORDS


def _compress(
    state: npt.NDArray[np.uint32],
    rows: npt.NDArray[np.uint32],
    offsets: npt.NDArray[np.int64],
    num_blocks: int,
    words: npt.NDArray[np.uint32],
) -> None:
    """Feed `num_blocks` blocks to each lane; the GIL is free meanwhile.

    Lane i reads `rows` from word `offsets[i]` on, which moves along. Word j of its state is
    `state[j * NUM_LANES + i]`. `words` is scratch space of one block a lane.
    """
    for _ in range(num_blocks):
        _transpose_block(rows, offsets, words)
        _compress_block(state, words)


def _loaded(function: Callable[..., None]) -> Callable[..., None]:
    """Compiled once and kept on disk; anew in each process where numba's cache cannot be read or
    written: no such place, a full disk, a file that lost its content.

    Raises:
        Exception: what is wrong with numba, or its compiler.
    """
    try:
        return _called(njit(function, nogil=True, cache=True))
    except Exception:  # noqa: BLE001 - of disks, of pickle, or numba's own
        return _called(njit(function, nogil=True))


def _called(compiled: Callable[..., None]) -> Callable[..., None]:
    """`compiled`, after it was called with what it is compiled for, and nothing to do."""
    words = np.zeros(NUM_LANES * _BLOCK_WORDS, np.uint32)
    compiled(words[: 4 * NUM_LANES], words, np.zeros(NUM_LANES, np.int64), 0, words)
    return compiled


compress = _loaded(_compress)
