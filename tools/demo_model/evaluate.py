"""Loss on unseen text: in nats per token, as perplexity, and in bits per byte."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from .network import Network
from .windows import Batch


@dataclass(frozen=True)
class Score:
    """How well a predictor does on a set of passages."""

    nats_per_token: float
    perplexity: float
    bits_per_byte: float


@dataclass(frozen=True)
class Evaluation:
    """What a training run led to."""

    tokens: int
    bytes: int
    model: Score
    bigram: Score
    unigram: Score


def score(total_nats: float, tokens: int, byte_count: int) -> Score:
    mean = total_nats / tokens
    return Score(mean, math.exp(mean), total_nats / math.log(2) / byte_count)


def count_targets(batches: Iterable[Batch]) -> int:
    return sum(int((batch.targets >= 0).sum()) for batch in batches)


def loss(logits: Tensor, targets: Tensor, reduction: str = "mean") -> Tensor:
    """Cross entropy over the targets that count."""
    return functional.cross_entropy(
        logits.flatten(0, 1), targets.flatten(), ignore_index=-100, reduction=reduction
    )


@torch.no_grad()
def total_nats(network: Network, batches: Iterable[Batch]) -> float:
    """The summed loss of a network in evaluation mode."""
    network.eval()
    losses = [loss(network(batch.inputs), batch.targets, "sum") for batch in batches]
    return math.fsum(value.item() for value in losses)
