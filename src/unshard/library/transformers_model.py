"""Filling transformers' OPT: imported when somebody asks for one, as transformers is an extra."""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch
from transformers import (
    AutoTokenizer,
    GenerationConfig,
    OPTConfig,
    OPTForCausalLM,
    PreTrainedTokenizerBase,
)

from unshard.architectures.opt import tensor_rules
from unshard.dtypes import DType, parse_dtype
from unshard.errors import CheckpointError, UsageError
from unshard.execute.model_sink import TORCH_DTYPES, fill_tensors
from unshard.index.build import open_checkpoint
from unshard.index.checkpoint import Checkpoint
from unshard.library.hugging_face_folder import check_tokenizer, write_description
from unshard.plan.safetensors_target import TORCH_NAMES
from unshard.progress import Progress


def load(
    source: str | Path, dtype: str | torch.dtype | None, progress: Progress | None
) -> tuple[OPTForCausalLM, PreTrainedTokenizerBase]:
    """See `unshard.to_transformers`."""
    checkpoint = open_checkpoint(source)
    check_tokenizer(checkpoint)
    stored = next(iter(checkpoint.index.values())).dtype
    wanted = stored if dtype is None else _dtype(dtype)
    with tempfile.TemporaryDirectory(prefix="unshard-") as name:
        folder = Path(name)
        write_description(checkpoint, folder, wanted)
        model = _empty_model(folder, TORCH_DTYPES[wanted])
        tokenizer = AutoTokenizer.from_pretrained(folder)
    model.config.name_or_path = model.name_or_path = tokenizer.name_or_path = checkpoint.source
    fill_tensors(checkpoint.index, _targets(checkpoint, model), progress)
    return model, tokenizer


def _dtype(wanted: str | torch.dtype) -> DType:
    for dtype in TORCH_NAMES:
        if wanted == TORCH_DTYPES[dtype] or (
            isinstance(wanted, str) and parse_dtype(wanted) is dtype
        ):
            return dtype
    names = ", ".join(dtype.name for dtype in TORCH_NAMES)
    raise UsageError(f"OPT does not compute in {wanted}", hint=f"use one of {names}")


def _empty_model(folder: Path, dtype: torch.dtype) -> OPTForCausalLM:
    """The model that `folder` describes, its memory allocated and unfilled."""
    with torch.device("meta"):
        model = OPTForCausalLM(OPTConfig.from_pretrained(folder))
    for parameter in model.parameters():
        parameter.data = parameter.data.to(dtype)
    model.to_empty(device="cpu")
    model.tie_weights()  # which memory of their own undid
    model.generation_config = GenerationConfig.from_pretrained(folder)
    model.train(mode=False)
    return model


def _targets(checkpoint: Checkpoint, model: OPTForCausalLM) -> dict[str, torch.Tensor]:
    """What each stored tensor fills, by canonical name.

    Raises:
        CheckpointError: that is not all of the model, or more.
    """
    state = {name: tensor.detach() for name, tensor in model.state_dict().items()}
    named = {
        name: rule.hugging_face_name
        for name, rule in tensor_rules(checkpoint.config).items()
        if rule.hugging_face_name is not None
    }
    places = {state[theirs].data_ptr() for theirs in named.values() if theirs in state}
    empty = {name for name, tensor in state.items() if tensor.data_ptr() not in places}
    wrong = min(empty | (set(named.values()) - state.keys()), default=None)
    if wrong is not None:
        raise CheckpointError(
            f"{checkpoint.source}: transformers' OPT is made differently here: {wrong}",
            hint="another release of transformers may fit",
        )
    return {name: state[theirs] for name, theirs in named.items()}
