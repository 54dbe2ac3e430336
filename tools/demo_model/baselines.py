"""Unigram and bigram predictors, tuned on training text only."""

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from .settings import SpecialTokens
from .windows import Batch, Tokens

Counts = NDArray[np.float64]
Table = NDArray[np.float64]


def bigram_counts(segments: list[Tokens], size: int) -> Counts:
    """How often each token follows each; `</s>` comes before every segment."""
    counts = np.zeros((size, size))
    for tokens in segments:
        contexts = np.concatenate([[SpecialTokens().end], tokens[:-1]])
        np.add.at(counts, (contexts, tokens), 1)
    return counts


def unigram(counts: Counts, added: float) -> Table:
    """Add-k smoothed probabilities, the same in every context."""
    single = counts.sum(axis=0) + added
    probabilities: Table = np.broadcast_to(single / single.sum(), counts.shape)
    return probabilities


def bigram(counts: Counts, discount: float, added: float) -> Table:
    """Absolute discounting, interpolated with the unigram."""
    totals = counts.sum(axis=1, keepdims=True)
    kinds = (counts > 0).sum(axis=1, keepdims=True)
    reserved = np.divide(discount * kinds, totals, out=np.ones_like(totals), where=totals > 0)
    direct = np.maximum(counts - discount, 0) / np.maximum(totals, 1)
    probabilities: Table = direct + reserved * unigram(counts, added)
    return probabilities


def segment_nats(table: Table, segments: list[Tokens]) -> float:
    """The summed loss of a table on whole segments."""
    counts = bigram_counts(segments, len(table))
    return float(-(counts * np.log(table)).sum())


def tables(segments: list[Tokens], size: int) -> tuple[Table, Table]:
    """The unigram and the bigram table; every tenth training segment tunes the smoothing."""
    tuning = segments[::10]
    fitted = bigram_counts([s for i, s in enumerate(segments) if i % 10], size)
    added = min((0.01, 0.1, 0.5, 1.0, 2.0), key=lambda k: segment_nats(unigram(fitted, k), tuning))
    discount = min(
        (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95),
        key=lambda d: segment_nats(bigram(fitted, d, added), tuning),
    )
    counts = bigram_counts(segments, size)
    return unigram(counts, added), bigram(counts, discount, added)


def total_nats(table: Table, batches: Iterable[Batch]) -> float:
    """The summed loss on exactly the inputs and targets that the network gets."""
    nats = 0.0
    for batch in batches:
        counted = batch.targets >= 0
        contexts, targets = batch.inputs[counted].numpy(), batch.targets[counted].numpy()
        nats -= float(np.log(table[contexts, targets]).sum())
    return nats
