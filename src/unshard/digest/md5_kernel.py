"""MD5 (RFC 1321) of `NUM_LANES` messages side by side: the only module that knows llvmlite.

A single message cannot be hashed faster than its chain of 64 dependent steps a block lets it.
Messages that lie beside each other fill the vector units instead: each value below is a vector
that holds one word of every message. A block is straight-line code on such vectors, so it is
written down as that, in LLVM's own language, which leaves nothing to an optimizer. LLVM makes it
into machine code for the processor at hand, in each process: that takes a twentieth of a second.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Sequence

import llvmlite.binding as llvm

from unshard.digest.lanes import NUM_LANES

BLOCK_BYTES = 64

_BLOCK_WORDS = BLOCK_BYTES // 4
_SINES = [int(abs(math.sin(i + 1)) * 2**32) for i in range(64)]
_ORDERS = ((0, 1), (1, 5), (5, 3), (0, 7))
"""Of each round: the word that its first step adds, and how far on that of the next is."""
_ROTATIONS = ((7, 12, 17, 22), (5, 9, 14, 20), (4, 11, 16, 23), (6, 10, 15, 21))
_VECTOR = f"<{NUM_LANES} x i32>"
_ROTATE = f"@llvm.fshl.v{NUM_LANES}i32"

_FUNCTION = """
declare {vector} {rotate}({vector}, {vector}, {vector})

define void @compress(ptr %state, ptr %places, i64 %num_blocks) {{
entry:
{load_state}
  %is_nothing = icmp eq i64 %num_blocks, 0
  br i1 %is_nothing, label %end, label %block
block:
  %number = phi i64 [ 0, %entry ], [ %next, %block ]
{current_state}
{block}
  %next = add i64 %number, 1
  %is_last = icmp eq i64 %next, %num_blocks
  br i1 %is_last, label %end, label %block
end:
{last_state}
{store_state}
  ret void
}}
"""


class _Code:
    """Instructions, each of which gives a value of its own."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def value(self, instruction: str) -> str:
        """The name of what `instruction` gives."""
        name = f"%v{len(self.lines)}"
        self.lines.append(f"  {name} = {instruction}")
        return name

    def of_two(self, operation: str, left: str, right: str) -> str:
        return self.value(f"{operation} {_VECTOR} {left}, {right}")

    def sum(self, first: str, *others: str) -> str:
        for other in others:
            first = self.of_two("add", first, other)
        return first

    def shuffled(self, left: str, right: str, lanes: Sequence[int]) -> str:
        """Lanes of both, which are counted through."""
        mask = ", ".join(f"i32 {lane}" for lane in lanes)
        vectors = f"{_VECTOR} {left}, {_VECTOR} {right}"
        return self.value(f"shufflevector {vectors}, <{NUM_LANES} x i32> <{mask}>")


def _everywhere(word: int) -> str:
    return f"<{', '.join([f'i32 {word}'] * NUM_LANES)}>"


def _rows(code: _Code) -> list[str]:
    """The current block of each message, as it lies."""
    offset = code.value(f"mul i64 %number, {BLOCK_BYTES}")
    rows = []
    for lane in range(NUM_LANES):
        place = code.value(f"getelementptr ptr, ptr %places, i64 {lane}")
        message = code.value(f"load ptr, ptr {place}")
        block = code.value(f"getelementptr i8, ptr {message}, i64 {offset}")
        rows.append(code.value(f"load {_VECTOR}, ptr {block}, align 1"))
    return rows


def _transposed(code: _Code, rows: list[str]) -> list[str]:
    """From a vector for each message to one for each word: squares of half the size trade their
    upper right quarter for the lower left one, down to single words."""
    rows, lanes = list(rows), range(NUM_LANES)
    half = NUM_LANES // 2
    while half:
        for i in range(NUM_LANES):
            if not i & half:
                upper, lower = rows[i], rows[i + half]
                left = [j if not j & half else NUM_LANES + j - half for j in lanes]
                right = [j + half if not j & half else NUM_LANES + j for j in lanes]
                rows[i] = code.shuffled(upper, lower, left)
                rows[i + half] = code.shuffled(upper, lower, right)
        half //= 2
    return rows


def _mixed(code: _Code, number: int, b: str, c: str, d: str) -> str:
    """The function of round `number` (F, G, H, I of the RFC)."""
    if number == 0:
        return code.of_two("xor", d, code.of_two("and", b, code.of_two("xor", c, d)))
    if number == 1:
        return code.of_two("xor", c, code.of_two("and", d, code.of_two("xor", b, c)))
    if number == 2:
        return code.of_two("xor", code.of_two("xor", b, c), d)
    not_d = code.of_two("xor", d, _everywhere(2**32 - 1))
    return code.of_two("xor", c, code.of_two("or", b, not_d))


def _steps(code: _Code, words: list[str], state: Sequence[str]) -> Sequence[str]:
    a, b, c, d = state
    for i, sine in enumerate(_SINES):
        number, step = divmod(i, _BLOCK_WORDS)
        first, distance = _ORDERS[number]
        word = words[(first + distance * step) % _BLOCK_WORDS]
        total = code.sum(a, word, _everywhere(sine), _mixed(code, number, b, c, d))
        by = _everywhere(_ROTATIONS[number][step % 4])
        operands = f"{_VECTOR} {total}, {_VECTOR} {total}, {_VECTOR} {by}"
        rotated = code.value(f"call {_VECTOR} {_ROTATE}({operands})")
        a, b, c, d = d, code.sum(b, rotated), b, c
    return a, b, c, d


def _source() -> str:
    """`compress` in LLVM's language. The four vectors of the state are `%old`, `%now`, `%new`
    before, at and after a block, and `%last` in the end."""
    code, words = _Code(), range(4)
    after = _steps(code, _transposed(code, _rows(code)), [f"%now{i}" for i in words])
    for i, value in enumerate(after):
        code.lines.append(f"  %new{i} = add {_VECTOR} %now{i}, {value}")
    merged = f"phi {_VECTOR} [ %old{{0}}, %entry ], [ %new{{0}}, %block ]"
    place = f"  %place{{0}} = getelementptr {_VECTOR}, ptr %state, i64 {{0}}\n"
    load = place + f"  %old{{0}} = load {_VECTOR}, ptr %place{{0}}, align 4"
    store = f"  store {_VECTOR} %last{{0}}, ptr %place{{0}}, align 4"
    return _FUNCTION.format(
        vector=_VECTOR,
        rotate=_ROTATE,
        load_state="\n".join(load.format(i) for i in words),
        current_state="\n".join(f"  %now{i} = {merged.format(i)}" for i in words),
        block="\n".join(code.lines),
        last_state="\n".join(f"  %last{i} = {merged.format(i)}" for i in words),
        store_state="\n".join(store.format(i) for i in words),
    )


def _engine(source: str) -> llvm.ExecutionEngine:
    """What owns the machine code of `source`."""
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    machine = llvm.Target.from_default_triple().create_target_machine(
        cpu=llvm.get_host_cpu_name(), features=llvm.get_host_cpu_features().flatten()
    )
    engine = llvm.create_mcjit_compiler(llvm.parse_assembly(source), machine)
    engine.finalize_object()
    return engine


_ENGINE = _engine(_source())
_SIGNATURE = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64)

compress = _SIGNATURE(_ENGINE.get_function_address("compress"))
"""`compress(state, places, num_blocks)`: feed so many blocks to each lane, which reads them from
the address `places[lane]` (64 bits) on. Word i of its state is `state[i * NUM_LANES + lane]`
(32 bits). The GIL is free meanwhile."""
