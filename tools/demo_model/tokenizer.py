"""Trains the byte-level BPE tokenizer and writes it in OPT's file forms."""

import json
from pathlib import Path

from tokenizers import ByteLevelBPETokenizer

from .settings import Architecture, SpecialTokens


def train(texts: list[str], architecture: Architecture) -> ByteLevelBPETokenizer:
    """Learns merges from `texts`, with GPT-2's pre-tokenisation and no prefix space."""
    tokenizer = ByteLevelBPETokenizer(add_prefix_space=False)
    tokenizer.train_from_iterator(
        iter(texts),
        vocab_size=architecture.vocabulary_size,
        min_frequency=2,
        special_tokens=[*SpecialTokens().names()],
        show_progress=False,
    )
    return tokenizer


def entries(tokenizer: ByteLevelBPETokenizer, size: int) -> dict[str, int]:
    """The vocabulary in id order, filled up with OPT's placeholder words."""
    vocabulary = dict(sorted(tokenizer.get_vocab().items(), key=lambda item: item[1]))
    for filler in range(size - len(vocabulary)):
        vocabulary[f"madeupword{filler:04d}"] = len(vocabulary)
    if size % 8 or list(vocabulary.values()) != list(range(size)):
        raise ValueError("the vocabulary must have consecutive ids and a multiple of 8 entries")
    return vocabulary


def write(tokenizer: ByteLevelBPETokenizer, folder: Path, size: int) -> None:
    """Writes `gpt2-vocab.json`, `gpt2-merges.txt` and `dict.txt`."""
    vocabulary = json.dumps(entries(tokenizer, size), ensure_ascii=False)
    (folder / "gpt2-vocab.json").write_text(vocabulary, encoding="utf-8")
    merges = json.loads(tokenizer.to_str())["model"]["merges"]
    lines = ["#version: 0.2", *(" ".join(pair) for pair in merges)]
    (folder / "gpt2-merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    words = range(len(SpecialTokens().names()), size)
    (folder / "dict.txt").write_text("".join(f"{word} 1\n" for word in words))


def load(folder: Path) -> ByteLevelBPETokenizer:
    """The tokenizer as its files describe it."""
    vocabulary, merges = str(folder / "gpt2-vocab.json"), str(folder / "gpt2-merges.txt")
    return ByteLevelBPETokenizer.from_file(vocabulary, merges, add_prefix_space=False)
