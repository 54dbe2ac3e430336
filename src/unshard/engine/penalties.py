"""What a request adds to its logits, and takes from those of tokens that it has said."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import torch
from torch import Tensor

from unshard.engine.request import SamplingParams


def penalized(logits: Tensor, rows: Sequence[tuple[SamplingParams, Sequence[int]]]) -> Tensor:
    """`logits` (n, V), or a copy where any row changes: plus `logit_bias`, minus
    `presence_penalty` for each token generated, minus `frequency_penalty` for each time it was.

    Args:
        logits: fp32; not changed.
        rows: n of (parameters, tokens generated so far).
    """
    changes = [_changes(params, generated) for params, generated in rows]
    if not any(changes):
        return logits
    logits = logits.clone()
    for row, change in zip(logits, changes, strict=True):
        if change:
            ids = torch.tensor(list(change), device=logits.device)
            row[ids] += torch.tensor(list(change.values()), device=logits.device)
    return logits


def _changes(params: SamplingParams, generated: Sequence[int]) -> dict[int, float]:
    """Token id -> what is added to its logit."""
    changes = dict(params.logit_bias)
    if params.penalizes:
        for token_id, count in Counter(generated).items():
            penalty = params.presence_penalty + count * params.frequency_penalty
            changes[token_id] = changes.get(token_id, 0.0) - penalty
    return changes
