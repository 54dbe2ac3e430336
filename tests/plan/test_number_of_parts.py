"""The number of parts in a file's training arguments, in every form that trainers left it in."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from unshard.formats.records import Global, PickledObject
from unshard.plan.metaseq_content import NUM_PARTS, in_order, set_num_parts


def made(name: str, state: dict[str, Any]) -> PickledObject:
    return PickledObject(Global("m", name), (), state=state, has_state=True)


def node(value: Any) -> PickledObject:
    return made("IntegerNode", {"_val": value})


OLD = {NUM_PARTS: 2, "other": 5}
HOLDERS: dict[str, tuple[Any, Any]] = {
    "dict": (dict(OLD), {NUM_PARTS: 8, "other": 5}),
    "dict that does not say": ({"other": 5}, {"other": 5, NUM_PARTS: 8}),
    "namespace": (made("Namespace", dict(OLD)), {NUM_PARTS: 8, "other": 5}),
    "namespace that does not say": (made("Namespace", {}), {NUM_PARTS: 8}),
    "OmegaConf of plain values": (made("DictConfig", {"_content": dict(OLD)}), None),
}


@pytest.mark.parametrize("kind", HOLDERS)
@pytest.mark.parametrize("where", ["cfg", "args"])
def test_set_where_it_stands(kind: str, where: str) -> None:
    holder, expected = copy.deepcopy(HOLDERS[kind])
    entries = {"cfg": {"model": holder}, "args": None} if where == "cfg" else {"args": holder}
    set_num_parts(entries, 8, NUM_PARTS)
    if expected is None:
        assert holder.state["_content"] == {NUM_PARTS: 8, "other": 5}
    else:
        assert getattr(holder, "state", holder) == expected


def test_omegaconf_wraps_the_value() -> None:
    wrapped, other = node(2), node(5)
    holder = made("DictConfig", {"_content": {NUM_PARTS: wrapped, "other": other}})
    set_num_parts({"cfg": {"model": holder}}, 8, NUM_PARTS)
    assert holder.state["_content"] == {NUM_PARTS: wrapped, "other": other}
    assert (wrapped.state, other.state) == ({"_val": 8}, {"_val": 5})


def test_omegaconf_is_given_no_new_field() -> None:
    holder = made("DictConfig", {"_content": {"other": 5}})
    set_num_parts({"cfg": {"model": holder}}, 8, NUM_PARTS)
    assert holder.state == {"_content": {"other": 5}}


@pytest.mark.parametrize("node", [PickledObject(Global("m", "N"), ()), made("N", {"x": 1})])
def test_what_holds_no_value_is_left_alone(node: PickledObject) -> None:
    state = node.state and dict(node.state)
    arguments = {NUM_PARTS: node}
    set_num_parts({"args": arguments}, 8, NUM_PARTS)
    assert arguments == {NUM_PARTS: node}
    assert node.state == state


def test_files_without_arguments_stay_as_they_are() -> None:
    for entries in ({}, {"args": None}, {"cfg": {"model": 7}}, {"cfg": {}}):
        before = dict(entries)
        set_num_parts(entries, 8, NUM_PARTS)
        assert entries == before


def test_unknown_keys_come_behind_the_known() -> None:
    content = {"later": 1, "model": 2, "first": 3, "cfg": 4}
    assert list(in_order(content).items()) == [("cfg", 4), ("model", 2), ("later", 1), ("first", 3)]
