"""A checkpoint in any layout as transformers' model and tokenizer."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from unshard.library.deferred import deferred
from unshard.progress import Progress

if TYPE_CHECKING:
    import torch
    from transformers import OPTForCausalLM, PreTrainedTokenizerBase

_load = deferred("unshard.library.transformers_model", "load", extra="transformers")


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
    found: tuple[OPTForCausalLM, PreTrainedTokenizerBase] = _load(source, dtype, progress)
    return found
