"""Cuts token sequences into windows that start with `</s>`."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.random import Generator
from numpy.typing import NDArray
from tokenizers import ByteLevelBPETokenizer
from torch import Tensor

from .corpus import Segment
from .settings import SpecialTokens

Tokens = NDArray[np.int64]


@dataclass(frozen=True)
class Batch:
    """Inputs and the tokens that follow them; -100 marks targets without meaning."""

    inputs: Tensor
    targets: Tensor


def encode_passage(tokenizer: ByteLevelBPETokenizer, text: str) -> Tokens:
    return np.array(tokenizer.encode(text).ids, dtype=np.int64)


def encode_segment(tokenizer: ByteLevelBPETokenizer, segment: Segment) -> Tokens:
    """A training segment's tokens; the one that closes its document ends with `</s>`."""
    tail = [SpecialTokens().end] if segment.closes else []
    return np.array([*tokenizer.encode(segment.text).ids, *tail], dtype=np.int64)


def line_starts(tokens: Tokens, line_ends: Tokens) -> Tokens:
    """Where a line may start: at 0 and after every token that ends a line."""
    return np.concatenate([[0], np.flatnonzero(np.isin(tokens[:-1], line_ends)) + 1])


def line_end_ids(tokenizer: ByteLevelBPETokenizer) -> Tokens:
    """Ids of the tokens whose text ends with a newline."""
    ids = sorted(tokenizer.get_vocab().values())
    return np.array([i for i in ids if tokenizer.decode([i]).endswith("\n")], dtype=np.int64)


def tile(tokens: Tokens, starts: Tokens, length: int, rng: Generator) -> Iterator[Tokens]:
    """Covers a segment with windows; three of four start at a line, the others anywhere."""
    start, reach = 0, int(rng.integers(length // 4, length))
    while True:
        yield tokens[start : start + reach]
        end = start + reach
        if end >= len(tokens):
            return
        line = int(starts[np.searchsorted(starts, end, side="right") - 1])
        at_line = rng.random() < 0.75 and line > start
        start, reach = (line if at_line else end), length


def stack(windows: list[Tokens], length: int) -> Batch:
    """Pads windows to one length, with `</s>` in front of every input."""
    special = SpecialTokens()
    inputs = torch.full((len(windows), length), special.padding)
    targets = torch.full((len(windows), length), -100)
    for row, window in enumerate(windows):
        targets[row, : len(window)] = torch.from_numpy(window)
        inputs[row, 0] = special.end
        inputs[row, 1 : len(window)] = torch.from_numpy(window[:-1])
    return Batch(inputs, targets)


def training_batches(
    segments: list[Tokens], line_ends: Tokens, length: int, rows: int, rng: Generator
) -> Iterator[Batch]:
    """Endless batches: every epoch cuts all segments anew and shuffles the windows."""
    starts = [line_starts(tokens, line_ends) for tokens in segments]
    while True:
        windows = [
            window
            for tokens, lines in zip(segments, starts, strict=True)
            for window in tile(tokens, lines, length, rng)
        ]
        order = rng.permutation(len(windows))
        for first in range(0, len(order) - rows + 1, rows):
            yield stack([windows[i] for i in order[first : first + rows]], length)


def evaluation_batches(passages: list[Tokens], length: int, rows: int) -> Iterator[Batch]:
    """Every token of every passage once, as a target."""
    windows = [
        tokens[first : first + length]
        for tokens in passages
        for first in range(0, len(tokens), length)
    ]
    for first in range(0, len(windows), rows):
        yield stack(windows[first : first + rows], length)
