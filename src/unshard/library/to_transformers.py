"""A checkpoint in any layout as transformers' model and tokenizer."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING

from unshard.errors import UsageError
from unshard.progress import Progress

if TYPE_CHECKING:
    import torch
    from transformers import OPTForCausalLM, PreTrainedTokenizerBase


def to_transformers(
    source: str | Path,
    *,
    dtype: str | torch.dtype | None = None,
    progress: Progress | None = None,
) -> tuple[OPTForCausalLM, PreTrainedTokenizerBase]:
    """The model on the CPU, ready to generate, and its tokenizer; nothing is written.

    Weights go straight from the files into the model's own memory. `dtype` is torch's or its name
    here (`fp32`, `bf16`, `fp16`); without it, the stored one.

    Raises:
        UsageError: torch or transformers is not installed, `dtype` is none of these, nothing is
            there, or the tokenizer is missing.
        FormatError: a file breaks its format or is shorter than its headers said.
        CheckpointError: files do not fit together, or transformers' model is made differently.
    """
    try:
        filled = importlib.import_module("unshard.library.transformers_model")
    except ModuleNotFoundError as error:
        package = (error.name or "").split(".")[0]
        if package not in {"torch", "transformers"}:
            raise
        raise UsageError(
            f"this needs the package {package}, which is not installed",
            hint="pip install 'unshard[transformers]', or '.[transformers]' in a clone",
        ) from error
    found: tuple[OPTForCausalLM, PreTrainedTokenizerBase] = filled.load(source, dtype, progress)
    return found
