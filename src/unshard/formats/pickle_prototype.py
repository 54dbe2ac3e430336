"""Decoding many pickles that differ in a few numbers.

The files of one checkpoint hold the same pickle but for ranks and clock times. The first
is decoded; when another of equal length differs only inside operands (a number, the letters
of a string), the first becomes a *prototype*: decoded with a hole for each such operand.
Every further one is the prototype's value with the holes filled: only the containers around
holes are new, all others are shared.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy as np

from unshard.errors import FormatError
from unshard.formats.extent import check_extent
from unshard.formats.pickle_leaves import LEAVES
from unshard.formats.pickle_machine import Machine, MalformedError, Operation
from unshard.formats.pickle_opcodes import OPERATIONS
from unshard.formats.records import PersistentId, PickledObject, children
from unshard.formats.unpickle import decode_pickle

MAX_PROTOTYPES = 8
MAX_PROTOTYPE_BYTES = 4 << 20
MAX_DIFFERENCES = 4096
"""Pickles that differ in more bytes are not alike."""


@dataclass(frozen=True, eq=False, slots=True)
class _Hole:
    """Stands for the value of the leaf opcode at bytes `[start, end)`."""

    start: int
    end: int


@dataclass(frozen=True, slots=True)
class _Prototype:
    """A pickle and its value with holes. Containers, records and holes are known by id."""

    data: bytes
    content: Any
    holes: tuple[_Hole, ...] = ()
    around: Mapping[int, Any] = field(default_factory=dict)
    """The containers and records that have a hole somewhere inside."""
    parents: Mapping[int, list[int]] = field(default_factory=dict)
    """Which of those hold a given one, or a given hole, directly."""
    filled: dict[int, Any] = field(default_factory=dict)
    """What stands for each of them, and for each hole, in the value of `data` itself."""


class Prototypes:
    """Decodes pickles as `decode_pickle` and `check_extent` do, remembering a few."""

    def __init__(self) -> None:
        self._by_length: OrderedDict[int, _Prototype] = OrderedDict()

    def decode(self, data: bytes, path: str) -> Any:
        """The object that `data` describes; parts of it may be shared with earlier ones.

        Raises:
            FormatError: as `decode_pickle` and `check_extent`.
        """
        known = self._by_length.get(len(data))
        prototype = None if known is None else _adapted(known, data)
        values = None if prototype is None else _values(prototype, data)
        if prototype is not None and values is not None:
            self._remember(prototype)
            return _fill(prototype, values)
        content = decode_pickle(data, path)
        check_extent(content, path)
        self._remember(_Prototype(data, content))
        return content

    def _remember(self, prototype: _Prototype) -> None:
        length = len(prototype.data)
        if length > MAX_PROTOTYPE_BYTES:
            return
        self._by_length[length] = prototype
        self._by_length.move_to_end(length)
        if len(self._by_length) > MAX_PROTOTYPES:
            self._by_length.popitem(last=False)


def _adapted(prototype: _Prototype, data: bytes) -> _Prototype | None:
    """A prototype with holes wherever `data` differs, or None where those cannot be."""
    differs = np.frombuffer(prototype.data, np.uint8) != np.frombuffer(data, np.uint8)
    for hole in prototype.holes:
        differs[hole.start + 1 : hole.end] = False
    places = np.flatnonzero(differs).tolist()
    if not places:
        return prototype
    if len(places) > MAX_DIFFERENCES:
        return None
    return _with_holes(prototype.data, sorted([hole.end - 1 for hole in prototype.holes] + places))


def _with_holes(data: bytes, places: Sequence[int]) -> _Prototype | None:
    """`data` decoded with a hole for each leaf that has one of `places` in its operand."""
    holes: list[_Hole] = []
    covered = 0

    def punched(leaf: Operation) -> Operation:
        def push(machine: Machine, at: int) -> int:
            nonlocal covered
            end = leaf(machine, at)
            count = bisect_left(places, end) - bisect_left(places, at)
            if count:
                covered += count
                machine.stack[-1] = _Hole(at - 1, end)
                holes.append(machine.stack[-1])
            return end

        return push

    leaves = {opcode: punched(leaf) for opcode, leaf in LEAVES.items()}
    try:
        content = decode_pickle(data, "", OPERATIONS | leaves)
    except FormatError:
        return None  # a hole stands where the machine needs the value itself
    if covered != len(places):
        return None
    prototype = _Prototype(data, content, tuple(holes), *_around(content, holes))
    prototype.filled.update(_made(prototype, _values(prototype, data) or {}))
    return prototype


def _around(content: Any, holes: Sequence[_Hole]) -> tuple[dict[int, Any], dict[int, list[int]]]:
    """`around` and `parents` of a prototype."""
    nodes: dict[int, Any] = {id(content): content}
    parents: dict[int, list[int]] = {id(content): []}
    todo = [content]
    while todo:
        value = todo.pop()
        for child in children(value):
            if isinstance(child, _BRANCHES):
                if id(child) not in nodes:
                    nodes[id(child)], parents[id(child)] = child, []
                    todo.append(child)
                parents[id(child)].append(id(value))
    found = _ancestors([id(hole) for hole in holes if id(hole) in nodes], parents)
    kept = {id(hole) for hole in holes} | found
    return (
        {key: nodes[key] for key in found},
        {key: above for key, above in parents.items() if key in kept},
    )


_BRANCHES = (_Hole, dict, list, set, frozenset, tuple, PersistentId, PickledObject)


def _ancestors(keys: Iterable[int], parents: Mapping[int, list[int]]) -> set[int]:
    found: set[int] = set()
    rising = list(keys)
    while rising:
        for parent in parents.get(rising.pop(), ()):
            if parent not in found:
                found.add(parent)
                rising.append(parent)
    return found


def _values(prototype: _Prototype, data: bytes) -> dict[int, Any] | None:
    """What `data` has in each hole (by id) unless it is what the prototype had there; None
    where an operand is of another length."""
    machine, values = Machine(data), {}
    for hole in prototype.holes:
        piece = slice(hole.start, hole.end)
        if prototype.filled and data[piece] == prototype.data[piece]:
            continue
        try:
            end = LEAVES[data[hole.start]](machine, hole.start + 1)
        except (MalformedError, UnicodeDecodeError):
            return None
        if end != hole.end:
            return None
        values[id(hole)] = machine.stack.pop()
    return values


def _fill(prototype: _Prototype, values: Mapping[int, Any]) -> Any:
    """The prototype's content with `values` in its holes, and its own values in the others."""
    key = id(prototype.content)
    made = _made(prototype, values)
    return made.get(key, prototype.filled.get(key, prototype.content))


def _made(prototype: _Prototype, values: Mapping[int, Any]) -> dict[int, Any]:
    """New containers around the holes that have `values`, by id of the prototype's.

    Containers that can hold themselves are made first and filled afterwards.
    """
    changed = _ancestors(values, prototype.parents)
    made = dict(values)

    def new(old: Any) -> Any:
        key = id(old)
        if key in made:
            return made[key]
        if key not in changed:
            return prototype.filled.get(key, old)
        if isinstance(old, PersistentId):
            made[key] = PersistentId(new(old.value))
        else:
            made[key] = type(old)(map(new, old))
        return made[key]

    for key in changed:
        old = prototype.around[key]
        if isinstance(old, dict | list | set):
            made[key] = type(old)()
        elif isinstance(old, PickledObject):
            made[key] = replace(old)
    for key in changed:
        _put_in(made.get(key), prototype.around[key], new)
    new(prototype.content)
    return made


def _put_in(made: Any, old: Any, new: Callable[[Any], Any]) -> None:
    match old:
        case dict():
            made.update((new(key), new(value)) for key, value in old.items())
        case list():
            made.extend(map(new, old))
        case set():
            made.update(map(new, old))
        case PickledObject():
            for part in fields(old):
                setattr(made, part.name, new(getattr(old, part.name)))
