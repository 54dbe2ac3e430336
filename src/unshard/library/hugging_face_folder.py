"""What Hugging Face's libraries want to see of a model beside its weights."""

from __future__ import annotations

import shutil
from pathlib import Path

from unshard import releases
from unshard.dtypes import DType
from unshard.errors import UsageError
from unshard.index.checkpoint import Checkpoint
from unshard.plan.safetensors_target import TOKENIZER_NAMES, model_files, tokenizer_files
from unshard.plan.small_files import json_bytes


def write_description(checkpoint: Checkpoint, folder: Path, dtype: DType | None = None) -> None:
    """Writes config and tokenizer into `folder`, and no weights; the tokenizer's files are left
    out where the checkpoint has none. The config says that weights are `dtype`, or as stored.

    Raises:
        OSError: `folder` cannot be written to.
    """
    config = checkpoint.config
    described = model_files(config, dtype or next(iter(checkpoint.index.values())).dtype)
    if has_tokenizer(checkpoint):
        described |= tokenizer_files(config)
    for companion, stored in checkpoint.companions.items():
        shutil.copyfile(stored.path, folder / TOKENIZER_NAMES[companion])
    for name, content in described.items():
        (folder / name).write_bytes(json_bytes(content))


def has_tokenizer(checkpoint: Checkpoint) -> bool:
    """Whether all of the tokenizer's files lie beside the weights."""
    return checkpoint.companions.keys() >= TOKENIZER_NAMES.keys()


def check_tokenizer(checkpoint: Checkpoint) -> None:
    """
    Raises:
        UsageError: the tokenizer is missing.
    """
    if not has_tokenizer(checkpoint):
        raise UsageError(
            f"{checkpoint.folder}: has no tokenizer",
            hint="put gpt2-vocab.json and gpt2-merges.txt beside the weights; those of OPT are "
            f"public: {releases.ASSETS}",
        )
