"""What records say when they are taken for shapes, plain values and mappings."""

from __future__ import annotations

from typing import Any

import pytest

from unshard.formats.records import (
    MAX_DIMENSIONS,
    Global,
    PickledObject,
    as_mapping,
    as_scalar,
    as_shape,
)
from unshard.formats.torch_release import TORCH_1_13, TORCH_2_13


def made(module: str, name: str, *args: Any, state: Any = None) -> PickledObject:
    return PickledObject(Global(module, name), args, state=state)


@pytest.mark.parametrize("shape", [(), (0,), (3, 0, 5), ((1 << 63) - 1,), (1,) * MAX_DIMENSIONS])
def test_shapes_in_every_spelling(shape: tuple[int, ...]) -> None:
    for said in (shape, list(shape), made("torch", "Size", shape), made("torch", "Size", [*shape])):
        assert as_shape(said) == shape


@pytest.mark.parametrize(
    "said",
    [
        (1,) * (MAX_DIMENSIONS + 1), (-1,), (1 << 63,), (True,), (2.0,), ("2",), (1, None), {1}, {},
        3, "2", None, made("torch", "Size"), made("torch", "Size", 3),
        made("torch", "Tensor", (2,)),
    ],
)  # fmt: skip
def test_no_shapes(said: object) -> None:
    assert as_shape(said) is None


def test_the_order_of_storages() -> None:
    """The older release sorts keys as texts."""
    keys = ["2", "10", "1", "0"]
    assert TORCH_1_13.ordered(keys) == ["0", "1", "10", "2"]
    assert TORCH_2_13.ordered(keys) == keys


def test_the_value_in_a_node() -> None:
    assert as_scalar(made("omegaconf", "IntegerNode", state={"_val": 7})) == 7
    assert as_scalar(made("omegaconf", "AnyNode", state={"_val": None})) is None
    for other in (7, "_val", {"_val": 7}, ["_val"], made("m", "N"), made("m", "N", state=["_val"])):
        assert as_scalar(other) is other


def test_mappings_of_every_kind() -> None:
    entries = {"a": 1}
    for kind in ("OrderedDict", "defaultdict"):
        held = made("collections", kind, state={"b": 2})
        held.entries = entries
        assert as_mapping(held) is entries
    assert as_mapping(entries) is entries
    assert as_mapping(made("argparse", "Namespace", state=entries)) is entries
    assert as_mapping(made("omegaconf", "DictConfig", state={"_content": entries})) is entries
    for other in ([], "a", None, made("m", "N"), made("m", "N", state=[1])):
        assert as_mapping(other) is None
    assert as_mapping(made("omegaconf", "DictConfig", state={"_content": "???"})) is None
