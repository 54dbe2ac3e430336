"""Logprobs as reported: fp32 log-softmax over the whole vocabulary, before temperature and
truncation, so that they say what the model believed and not how the token was chosen."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from unshard.engine.request import ScoredToken


def score_tokens(
    logits: Tensor, token_ids: Sequence[int], num_alternatives: int
) -> list[ScoredToken]:
    """One `ScoredToken` per row of `logits` (R, V) fp32: the row's token and the row's
    `num_alternatives` best tokens."""
    logprobs = torch.log_softmax(logits, dim=1)
    chosen = torch.tensor(token_ids, device=logits.device)[:, None]
    own: list[float] = logprobs.gather(1, chosen)[:, 0].tolist()
    if num_alternatives == 0:
        return [ScoredToken(t, p) for t, p in zip(token_ids, own, strict=True)]
    best = logprobs.topk(num_alternatives, dim=1)
    pairs = zip(best.indices.tolist(), best.values.tolist(), strict=True)
    alternatives = [tuple(zip(ids, values, strict=True)) for ids, values in pairs]
    return [ScoredToken(*row) for row in zip(token_ids, own, alternatives, strict=True)]
