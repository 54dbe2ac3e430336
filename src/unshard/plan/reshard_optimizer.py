"""The optimizer's state of one part, cut into the shards of the weights that it belongs to.

The original joins the slices of all ranks with their padding and cuts that anew: moments get
longer than their parameter, and fall out of step with it. Here the padding goes first.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from unshard.formats.records import PickledObject, as_mapping
from unshard.formats.torch_zip import TorchFile
from unshard.index.optimizer import KEY, joined, read_moments
from unshard.plan.flat_shards import flat_shards, sharded_values
from unshard.plan.original_process import OriginalProcess
from unshard.plan.small_files import copied
from unshard.tensors import LogicalTensor


def resharded_optimizer(
    files: Sequence[TorchFile],
    num_elements: Sequence[int],
    first: object,
    count: int,
    process: OriginalProcess,
) -> tuple[dict[str, LogicalTensor], list[dict[str, Any]]]:
    """The moments in the shards `files` of one part, whose flat parameters have `num_elements`
    (padding apart), as sources by name; and `last_optimizer_state` of each of `count` output
    shards, where `first` is that of the first input shard as loaded.

    Raises:
        CheckpointError: a moment is not as long as its flat parameter's shard.
    """
    sources: dict[str, LogicalTensor] = {}
    moments: dict[Any, dict[str, list[PickledObject]]] = {}
    for (number, moment), refs in read_moments(files).items():
        name = f"{KEY}/{number}/{moment}"
        total = num_elements[number] if number in range(len(num_elements)) else 0
        sources[name] = LogicalTensor.of(joined(files[0].path, name, refs, total))
        shards = flat_shards(name, [copied(sources[name])], count)
        moments.setdefault(number, {})[moment] = shards
    said: Mapping[str, Any] = as_mapping(first) or {}
    states: list[dict[Any, dict[str, Any]]] = [{} for _ in range(count)]
    for number, values in (as_mapping(said.get("state")) or {}).items():
        kept = sharded_values(as_mapping(values) or {}, moments.get(number, {}), count)
        for state, shard in zip(states, kept, strict=True):
            state[number] = shard
    others = {key: value for key, value in said.items() if key != "state"}
    return sources, [{process.name("state"): state, **others} for state in states]
