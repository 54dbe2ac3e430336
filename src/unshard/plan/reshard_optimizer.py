"""The optimizer's state of one part, cut into the shards of the weights that it belongs to.

The original joins the slices of all ranks with their padding and cuts that anew: moments get
longer than their parameter, and fall out of step with it. Here the padding goes first.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from unshard.formats.records import as_mapping
from unshard.formats.torch_zip import TorchFile
from unshard.index.optimizer import KEY, Moment, joined, read_moments
from unshard.plan.copy_plan import TargetTensor
from unshard.plan.flat_shards import cut_into_shards
from unshard.plan.original_process import OriginalProcess
from unshard.plan.small_files import copied
from unshard.plan.torch_archive import pickled_tensor
from unshard.tensors import LogicalTensor, TensorRef


class ReshardedOptimizer:
    """The moments in the shards `files` of one part, whose flat parameters have these numbers
    of elements, padding apart.

    Raises:
        CheckpointError: a moment is not as long as its flat parameter's shard.
    """

    def __init__(self, files: Sequence[TorchFile], num_elements: Sequence[int]) -> None:
        self._where = files[0].path
        self._num_elements = num_elements
        self.sources: dict[str, LogicalTensor] = {}
        self._moments: dict[Moment, TargetTensor] = {}
        for moment, refs in read_moments(files).items():
            name = "/".join(map(str, (KEY, *moment)))
            ref = self._whole(name, moment, refs)
            source = LogicalTensor.of(ref)
            self.sources[name] = source
            self._moments[moment] = copied(source)

    def _whole(self, name: str, moment: Moment, refs: Sequence[TensorRef]) -> TensorRef:
        number, count = moment[0], len(self._num_elements)
        total = self._num_elements[number] if number in range(count) else 0
        return joined(self._where, name, refs, total)

    def states(self, first: object, count: int, process: OriginalProcess) -> list[dict[str, Any]]:
        """`last_optimizer_state` of each of `count` output shards, where `first` is that of the
        first input shard as loaded."""
        said: Mapping[str, Any] = as_mapping(first) or {}
        states: list[dict[Any, dict[str, Any]]] = [{} for _ in range(count)]
        for number, values in (as_mapping(said.get("state")) or {}).items():
            for rank, shard in enumerate(self._shards(number, as_mapping(values) or {}, count)):
                states[rank][number] = shard
        others = {key: value for key, value in said.items() if key != "state"}
        return [{process.name("state"): state, **others} for state in states]

    def _shards(self, number: Any, values: Mapping[str, Any], count: int) -> list[dict[str, Any]]:
        shards: list[dict[str, Any]] = [{} for _ in range(count)]
        for name, value in values.items():
            moment = self._moments.get((number, name))
            if moment is None:
                pieces = [value] * count
            else:
                storages = cut_into_shards(moment.name, [moment], count)
                pieces = [pickled_tensor(each, 0, (each.num_elements,)) for each in storages]
            for shard, piece in zip(shards, pieces, strict=True):
                shard[name] = piece
        return shards
