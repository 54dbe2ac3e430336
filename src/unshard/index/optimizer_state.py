"""An optimizer's state of the whole model: further values for each element of each weight.

Adam's moments lie like the weights, cut by tensor parallelism and by FSDP alike. Put together
by the same rules, each moment is a second set of logical tensors under the weights' names.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from unshard.architectures.opt import VERSION_BUFFER, TensorRule, tensor_rules
from unshard.errors import CheckpointError, UsageError
from unshard.formats.torch_zip import read_torch_files
from unshard.index.checkpoint import Checkpoint
from unshard.index.fused import logical_names
from unshard.index.grid import place_files
from unshard.index.optimizer import KEY, Moment, joined, read_moments
from unshard.index.slices import cut
from unshard.placement import assembled, local_box
from unshard.tensors import LogicalTensor, Shape, TensorRef


@dataclass(frozen=True)
class OptimizerState:
    """Every moment of every weight; `moments` by the moment's name, then the weight's."""

    moments: Mapping[str, Mapping[str, LogicalTensor]]
    num_units: int
    """How many flat parameters the files keep state of."""


def source_name(moment: str, weight: str = "") -> str:
    """What a moment of a weight is called as a source; without the weight, its prefix."""
    return f"{KEY}/{moment}/{weight}"


def read_optimizer_state(checkpoint: Checkpoint) -> OptimizerState:
    """The optimizer's state in the files of `checkpoint`.

    Raises:
        UsageError: they have none.
        CheckpointError: it does not fit the weights.
        FormatError: a file breaks its format.
    """
    if not checkpoint.metadata or KEY not in checkpoint.metadata[0].entries:
        raise UsageError(
            f"{checkpoint.source}: holds no optimizer state", hint="leave out --optimizer keep"
        )
    grid = place_files(checkpoint.source, checkpoint.layout.files)
    parts = []
    for row in grid.values():
        files = list(read_torch_files(file.path for file in row.values()))
        parts.append(_LocalMoments(checkpoint, files[0].path, len(grid)).cut(read_moments(files)))
    for part in parts:
        if part.keys() != parts[0].keys():
            raise CheckpointError(f"{checkpoint.source}: the parts' optimizer states differ")
    moments: dict[str, dict[str, LogicalTensor]] = {}
    rules = tensor_rules(checkpoint.config)
    for moment, weight in parts[0]:
        name = source_name(moment, weight)
        tensor = _assembled(name, rules[weight], [part[moment, weight] for part in parts])
        moments.setdefault(moment, {})[weight] = tensor
    _refuse_gaps(checkpoint, moments)
    return OptimizerState(moments, len(_flat_units(checkpoint)))


def _flat_units(checkpoint: Checkpoint) -> list[tuple[str, ...]]:
    """The flat parameters' tensors; the buffer is in none."""
    return [unit for unit in checkpoint.units if unit != (VERSION_BUFFER,)]


@dataclass(frozen=True, slots=True)
class _LocalMoments:
    """One part's moments, as tensors by (moment, weight)."""

    checkpoint: Checkpoint
    path: str
    tp_size: int

    def cut(
        self, moments: Mapping[Moment, Sequence[TensorRef]]
    ) -> dict[tuple[str, str], TensorRef]:
        units = _flat_units(self.checkpoint)
        found: dict[tuple[str, str], TensorRef] = {}
        for (number, moment), refs in moments.items():
            if not isinstance(moment, str) or number not in range(len(units)):
                raise CheckpointError(f"{self.path}: optimizer state {number} is of no parameter")
            shapes = self._shapes(units[number])
            for weight, ref in self._tensors(source_name(moment), shapes, refs).items():
                found[moment, weight] = ref
        return found

    def _shapes(self, unit: Sequence[str]) -> dict[str, Shape]:
        """The shapes of the unit's logical tensors in one part, in order."""
        rules = tensor_rules(self.checkpoint.config)
        shapes = {}
        for name in (logical for stored in unit for logical in logical_names(stored)):
            rule = rules[name]
            _, shapes[name] = local_box(name, rule.shape, rule.placement, 0, self.tp_size)
        return shapes

    def _tensors(
        self, prefix: str, shapes: Mapping[str, Shape], refs: Sequence[TensorRef]
    ) -> dict[str, TensorRef]:
        whole = joined(self.path, prefix, refs, sum(map(math.prod, shapes.values())))
        named = ((prefix + name, shape) for name, shape in shapes.items())
        return dict(zip(shapes, cut([whole], named), strict=True))


def _assembled(name: str, rule: TensorRule, refs: Sequence[TensorRef]) -> LogicalTensor:
    """One rank's slices as a whole tensor, split as its weight is."""
    if any(ref.dtype != refs[0].dtype for ref in refs):
        raise CheckpointError(f"{name}: its dtype differs between the parts")
    return assembled(name, rule.shape, rule.placement, refs)


def _refuse_gaps(
    checkpoint: Checkpoint, moments: Mapping[str, Mapping[str, LogicalTensor]]
) -> None:
    for moment, weights in moments.items():
        for name in checkpoint.index:
            if name != VERSION_BUFFER and name not in weights:
                raise CheckpointError(f"{checkpoint.source}: has no {moment} of {name}")
