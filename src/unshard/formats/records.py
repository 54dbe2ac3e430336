"""Inert records of what a pickle said, instead of the objects it asks to build.

Plain data (dict, list, tuple, str, int, float, bytes, None, bool) is itself. Everything
that a pickle would construct by a call is one of the records here: nothing is imported,
nothing is called, and `pickle_encode` can write the same bytes again.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import chain
from typing import Any


@dataclass(frozen=True, slots=True)
class Global:
    """A name that the pickle would import: `module.name`."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


@dataclass(frozen=True, slots=True, eq=False)
class PersistentId:
    """A reference out of the pickle; torch's says which storage record is meant."""

    value: Any


@dataclass(slots=True, eq=False)
class PickledObject:
    """An object as its construction: `constructor(*args)`, then state, items and entries.

    `by_new` tells protocol 2's NEWOBJ from REDUCE. `has_state` tells BUILD with None from
    no BUILD.
    """

    constructor: Any
    args: Any
    by_new: bool = False
    state: Any = None
    has_state: bool = False
    items: list[Any] = field(default_factory=list)
    entries: dict[Any, Any] = field(default_factory=dict)

    def is_call_of(self, module: str, *names: str) -> bool:
        made_by = self.constructor
        return isinstance(made_by, Global) and made_by.module == module and made_by.name in names


def as_mapping(value: object) -> Mapping[Any, Any] | None:
    """The entries of anything dict-like, or None: dict, OrderedDict, Namespace, DictConfig.

    A Namespace and other plain objects keep their attributes in their state. OmegaConf
    wraps each container and each value in a node whose state holds `_content` or `_val`.
    """
    if isinstance(value, dict):
        return value
    if not isinstance(value, PickledObject):
        return None
    if value.is_call_of("collections", "OrderedDict", "defaultdict"):
        return value.entries
    state = value.state
    if not isinstance(state, dict):
        return None
    content = state.get("_content", state)
    return content if isinstance(content, dict) else None


def as_scalar(value: object) -> object:
    """The plain value in an OmegaConf node (`AnyNode`, `IntegerNode`, …), or `value` itself."""
    if isinstance(value, PickledObject) and isinstance(value.state, dict) and "_val" in value.state:
        return value.state["_val"]
    return value


def children(value: object) -> Iterator[Any]:
    """What a container or a record holds directly: keys, values, elements, parts."""
    if isinstance(value, dict):
        return chain(value, value.values())
    if isinstance(value, list | tuple | set | frozenset):
        return iter(value)
    if isinstance(value, PersistentId):
        return iter((value.value,))
    if isinstance(value, PickledObject):
        parts = (value.items, value.entries)
        return chain((value.constructor, value.args, value.state), filter(None, parts))
    return iter(())


MAX_DIMENSIONS = 64
"""torch's own limit."""


def as_shape(value: object) -> tuple[int, ...] | None:
    """A shape given as a tuple, a list or a pickled `torch.Size`; None for anything else."""
    if isinstance(value, PickledObject) and value.is_call_of("torch", "Size"):
        value = value.args[0] if isinstance(value.args, tuple) and value.args else None
    if isinstance(value, tuple | list) and len(value) <= MAX_DIMENSIONS:
        sizes = [size for size in value if type(size) is int and 0 <= size < 1 << 63]
        return tuple(sizes) if len(sizes) == len(value) else None
    return None
