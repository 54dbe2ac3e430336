"""The tokenizer's files, which lie beside the weights under one of two names."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from unshard.tensors import ByteRange

Companion = Literal["vocab", "merges"]

NAMES: Mapping[Companion, tuple[str, ...]] = {
    "vocab": ("gpt2-vocab.json", "vocab.json"),
    "merges": ("gpt2-merges.txt", "merges.txt"),
}
"""metaseq's name first, then Hugging Face's, for the same content."""


def find_companions(folder: Path) -> dict[Companion, ByteRange]:
    """The tokenizer files in `folder`; absent ones are left out."""
    found: dict[Companion, ByteRange] = {}
    for companion, names in NAMES.items():
        for path in (folder / name for name in names):
            if companion not in found and path.is_file():
                found[companion] = ByteRange(str(path), 0, path.stat().st_size)
    return found
