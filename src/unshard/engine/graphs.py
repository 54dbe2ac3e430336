"""Steps of single tokens, recorded once for each shape and replayed: a GPU then starts some hundred
kernels by one call, where starting them one by one takes longer than they do."""

from __future__ import annotations

import logging
from collections.abc import Callable
from collections.abc import Sequence as Rows
from dataclasses import dataclass

import torch
from torch import Tensor

from unshard.engine.block_table import num_blocks_for
from unshard.engine.paged_cache import PagedCache
from unshard.engine.step import StepLayout
from unshard.engine.torch_attention import DecodeAttention, padded
from unshard.models.opt import OPTModel

MOST_SEQUENCES = 64
"""Of a step that is recorded; where there are more, a kernel takes longer than to start it."""
LEAST_BLOCKS = 4
"""Of each sequence in the smallest step that is recorded."""

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Recording:
    """A computation that can be done again, over what its memory holds by then."""

    replay: Callable[[], None]
    result: Tensor
    """Filled by each `replay`."""


Record = Callable[[Callable[[], Tensor]], Recording]
"""Records a computation that takes no number from the host. May do it meanwhile, any number of
times; raises RuntimeError where it cannot be recorded."""


@dataclass(frozen=True, slots=True)
class _Step:
    numbers: Tensor
    """(S, 2 + blocks) int64, row = [token, context length, blocks] of one sequence."""
    recording: Recording


class DecodeGraphs:
    """Recorded steps of `model`, whose keys and values are in `cache`: of 1, 2, 4, 8 ... sequences
    with 4, 8, 16 ... blocks each, every one recorded when it is first needed.

    A step is filled up with rows of a token that nobody asked for. They write to the cache's spare
    block and read that alone, and no sequence reads it.
    """

    def __init__(self, model: OPTModel, cache: PagedCache, record: Record) -> None:
        self._model = model
        self._cache = cache
        self._record: Record | None = record
        self._most_blocks = num_blocks_for(model.config.max_positions)
        self._steps: dict[tuple[int, int], _Step] = {}

    def run(self, token_ids: Rows[int], layout: StepLayout) -> Tensor | None:
        """Hidden states (S, E) of a step with one token of each sequence, valid until the next
        step; None where this step is not recorded, and is to be computed without."""
        count = len(token_ids)
        if self._record is None or count > MOST_SEQUENCES or max(layout.num_new) > 1:
            return None
        needed = num_blocks_for(max(layout.context_lengths))
        width = min(max(LEAST_BLOCKS, _power_of_two(needed)), self._most_blocks)
        shape = _power_of_two(count), width
        numbers = self._numbers(token_ids, layout, shape)
        step = self._steps.get(shape)
        if step is None:
            step = self._recorded(numbers.to(self._model.device), self._record)
            if step is None:
                return None
            self._steps[shape] = step
        step.numbers.copy_(numbers)
        step.recording.replay()
        return step.recording.result[:count]

    def _numbers(self, token_ids: Rows[int], layout: StepLayout, shape: tuple[int, int]) -> Tensor:
        size, width = shape
        sequences = zip(token_ids, layout.context_lengths, layout.tables, strict=True)
        rows = [[token, end, *padded(table, end, width)] for token, end, table in sequences]
        filling = [0, 1, *[self._cache.spare_block] * width]
        return torch.tensor(rows + [filling] * (size - len(rows)))

    def _recorded(self, numbers: Tensor, record: Record) -> _Step | None:
        def compute() -> Tensor:
            token_ids, lengths, tables = numbers[:, 0], numbers[:, 1], numbers[:, 2:]
            attention = DecodeAttention(self._cache.layers, tables, lengths)
            return self._model.hidden_states(token_ids, lengths - 1, attention)

        try:
            return _Step(numbers, record(compute))
        except RuntimeError as error:
            # If it is the step and not the recording that fails, it will fail without, and say so.
            _LOG.warning("no CUDA graphs from now on, decoding is slower: %s", error)
            self._record = None
            self._steps.clear()
            return None


def record_for(model: OPTModel) -> Record | None:
    """What records the steps of `model`; None where nothing does: on CPUs, of several ranks, and
    where layers are fetched, whose copies go on from one step into the next."""
    if model.device.type != "cuda" or model.group.size > 1 or model.fetches_layers:
        return None
    return CudaRecorder(model.device)


class CudaRecorder:
    """Records CUDA graphs, all in one pool of memory: one at a time is replayed."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream: torch.cuda.Stream = torch.cuda.Stream(device)
        self._pool = torch.cuda.graph_pool_handle()

    def __call__(self, compute: Callable[[], Tensor]) -> Recording:
        with torch.cuda.device(self._device):
            here = torch.cuda.current_stream()
            self._stream.wait_stream(here)
            with torch.cuda.stream(self._stream):
                compute()  # what libraries set up at their first call is not to be recorded
            here.wait_stream(self._stream)
            graph = torch.cuda.CUDAGraph()
            # Other threads may use the device meanwhile.
            with torch.cuda.graph(
                graph, pool=self._pool, stream=self._stream, capture_error_mode="thread_local"
            ):
                result = compute()
        return Recording(graph.replay, result)


def _power_of_two(number: int) -> int:
    """The least that is not below `number`, which is 1 or more."""
    return 1 << (number - 1).bit_length()
