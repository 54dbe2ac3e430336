"""What a request changes in its logits: for tokens that were there, for some that it names."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from unshard.architectures.opt import EOS_TOKEN_ID
from unshard.engine.history import History
from unshard.engine.request import SamplingParams

_Row = tuple[SamplingParams, History]
_Change = tuple[NDArray[np.int64], NDArray[np.float64]]
"""Token ids, each once, and a number for each."""


def penalized(logits: Tensor, rows: Sequence[_Row]) -> Tensor:
    """`logits` (n, V), or a copy where any row changes. In this order: `repetition_penalty`, plus
    `logit_bias`, minus the presence and frequency penalties, minus the source penalties, and
    `</s>` cannot be while there are fewer than `min_tokens` tokens.

    Args:
        logits: fp32; not changed.
        rows: n of (parameters, tokens so far).
    """
    banned = [row for row, (p, history) in enumerate(rows) if history.num_generated < p.min_tokens]
    repeated = _places(rows, _repeated, logits)
    added = [_places(rows, changes, logits) for changes in (_bias, _said, _in_source)]
    if not banned and repeated is None and not any(added):
        return logits
    logits = logits.clone(memory_format=torch.contiguous_format)
    flat = logits.view(-1)
    if repeated is not None:
        places, penalties = repeated
        values = flat[places]
        flat[places] = torch.where(values > 0, values / penalties, values * penalties)
    for change in added:
        if change is not None:
            # The places are distinct, so no sum depends on the order of additions.
            places, changes = change
            flat[places] += changes
    if banned:
        logits[banned, EOS_TOKEN_ID] = -torch.inf
    return logits


def _places(
    rows: Sequence[_Row], change_of: Callable[[SamplingParams, History], _Change | None], at: Tensor
) -> tuple[Tensor, Tensor] | None:
    """All rows' changes of one kind at once: places in the flat `at` (n, V), and numbers."""
    changes = [(row, change_of(*each)) for row, each in enumerate(rows)]
    some = [
        (change[0] + row * at.shape[1], change[1])
        for row, change in changes
        if change is not None and len(change[0])
    ]
    if not some:
        return None
    places, numbers = (np.concatenate(parts) for parts in zip(*some, strict=True))
    return (
        torch.from_numpy(places).to(at.device),
        torch.from_numpy(numbers.astype(np.float32)).to(at.device),
    )


def _repeated(params: SamplingParams, history: History) -> _Change | None:
    if history.seen is None:
        return None
    return history.seen.ids, np.full(len(history.seen.ids), params.repetition_penalty)


def _bias(params: SamplingParams, _: History) -> _Change | None:
    biases = dict(params.logit_bias)
    if not biases:
        return None
    return np.array(list(biases), dtype=np.int64), np.array(list(biases.values()))


def _said(params: SamplingParams, history: History) -> _Change | None:
    if history.generated is None:
        return None
    taken = params.presence_penalty + history.generated.counts * params.frequency_penalty
    return history.generated.ids, -taken


def _in_source(params: SamplingParams, history: History) -> _Change | None:
    source = params.source_penalties
    if history.prompt is None or source is None or not source.applies:
        return None
    # They are taken after temperature, and what changes here is divided by it later.
    temperature = params.temperature or 1.0
    taken = source.presence + history.prompt.counts * source.frequency
    return history.prompt.ids, -taken * temperature
