"""`last_optimizer_state` for any number of parts and shards."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from unshard.errors import CheckpointError
from unshard.formats.records import PickledObject, as_mapping
from unshard.index.fused import logical_names
from unshard.index.optimizer import KEY, states_of
from unshard.index.optimizer_state import OptimizerState, source_name
from unshard.plan.flat_shards import flat_shards, sharded_values
from unshard.plan.local_tensors import common_dtype
from unshard.plan.metaseq_units import TensorParallel, Unit


def optimizer_states(
    optimizer: OptimizerState,
    entries: Mapping[str, Any],
    parallel: TensorParallel,
    rank: int,
    count: int,
) -> list[dict[str, Any]]:
    """The optimizer's state in each of the `count` FSDP shards of part `rank`.

    What is no moment (steps, learning rates, the loss scale) is as in `entries`, the top level
    of a source file.

    Raises:
        CheckpointError: the source's units are others, and hold different such values.
    """
    units = parallel.units()
    values = _values(states_of(entries), optimizer, len(units))
    states: list[dict[int, dict[str, Any]]] = [{} for _ in range(count)]
    for number, unit in enumerate(units):
        moments = {
            moment: _shards(optimizer, moment, unit, parallel, rank, count)
            for moment in optimizer.moments
        }
        for state, shard in zip(
            states, sharded_values(values[number], moments, count), strict=True
        ):
            state[number] = shard
    said = as_mapping(entries.get(KEY)) or {}
    others = {key: value for key, value in said.items() if key != "state"}
    if len(units) != optimizer.num_units:
        others = _regrouped(others, len(units))
    return [{"state": state, **others} for state in states]


def _values(
    states: Mapping[Any, Mapping[Any, Any]], optimizer: OptimizerState, num_units: int
) -> Sequence[Mapping[str, Any]]:
    """The values kept of each target unit; one unit's stand for all where units differ."""
    found = [dict(states[number]) for number in range(optimizer.num_units) if number in states]
    if not found:
        raise CheckpointError(f"{KEY}: holds no state")
    if len(found) == num_units:
        return found
    first = _plain(found[0], optimizer)
    if any(_plain(each, optimizer) != first for each in found):
        raise CheckpointError(f"{KEY}: its units differ in more than their moments")
    return [found[0]] * num_units


def _plain(values: Mapping[str, Any], optimizer: OptimizerState) -> dict[str, Any]:
    return {
        key: value
        for key, value in values.items()
        if key not in optimizer.moments and isinstance(value, int | float | str | None)
    }


def _shards(
    optimizer: OptimizerState,
    moment: str,
    unit: Unit,
    parallel: TensorParallel,
    rank: int,
    count: int,
) -> list[PickledObject]:
    planes = optimizer.moments[moment]
    tensors = [
        parallel.local(
            name,
            common_dtype(source_name(moment, name), map(planes.__getitem__, logical_names(name))),
            rank,
            source_name(moment),
        )
        for name in unit.names
    ]
    return flat_shards(source_name(moment, unit.key), tensors, count)


def _regrouped(others: Mapping[str, Any], num_units: int) -> dict[str, Any]:
    """The same, with its one group of parameters holding all units.

    Raises:
        CheckpointError: there are several groups, of units that are no more.
    """
    groups = others.get("param_groups")
    if not isinstance(groups, list):
        return dict(others)
    if len(groups) > 1:
        raise CheckpointError(f"{KEY}: has {len(groups)} groups of parameters for other units")
    kept = [{**(as_mapping(group) or {}), "params": list(range(num_units))} for group in groups]
    return {**others, "param_groups": kept}
