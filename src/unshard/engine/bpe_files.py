"""The two files of a GPT-2 byte BPE: `gpt2-vocab.json` and `gpt2-merges.txt`.

Read here and not by the `tokenizers` library, which aborts on merges that do not fit.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from tokenizers.pre_tokenizers import ByteLevel

from unshard.errors import FormatError


def read_vocab(path: Path) -> dict[str, int]:
    """Piece -> id of a JSON object.

    Raises:
        FormatError: `path` is not a JSON object of distinct ids 0, 1, 2, ….
    """
    try:
        vocab = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise FormatError(path, f"not JSON: {error}") from error
    if not isinstance(vocab, dict) or not all(type(i) is int and i >= 0 for i in vocab.values()):
        raise FormatError(path, "not a JSON object of pieces and their ids")
    if len(set(vocab.values())) != len(vocab):
        raise FormatError(path, "two pieces have the same id")
    return vocab


def read_merges(path: Path, vocab: Mapping[str, int]) -> list[tuple[str, str]]:
    """Pairs of pieces to join, best first.

    Raises:
        FormatError: a line is not two pieces of `vocab` whose concatenation is a third.
    """
    try:
        lines = path.read_bytes().decode("utf-8").split("\n")
    except UnicodeDecodeError as error:
        raise FormatError(path, f"not UTF-8: {error}") from error
    merges: list[tuple[str, str]] = []
    alphabet = set(ByteLevel.alphabet())
    for number, line in enumerate(lines, start=1):
        if not line or line.startswith("#version"):
            continue
        pair = tuple(line.rstrip("\r").split(" "))
        is_merge = len(pair) == 2 and {*pair, "".join(pair)} <= vocab.keys()
        if not is_merge or not set("".join(pair)) <= alphabet:
            raise FormatError(path, f"line {number} is not a merge of this vocabulary: {line!r}")
        merges.append((pair[0], pair[1]))
    return merges
