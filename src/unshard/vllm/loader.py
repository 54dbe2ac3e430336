"""vLLM's model loader for the load format `unshard`."""

from __future__ import annotations

import logging
import multiprocessing
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vllm.model_executor.model_loader import register_model_loader
from vllm.model_executor.model_loader.base_loader import BaseModelLoader

from unshard.architectures.opt import OPTConfig, tensor_rules
from unshard.errors import CheckpointError, UsageError
from unshard.library.lazy_checkpoint import LazyCheckpoint
from unshard.library.lazy_checkpoint import open as open_lazily
from unshard.parallel.place import end_with_parent
from unshard.plan.safetensors_target import MODEL_FIELDS
from unshard.vllm import LOAD_FORMAT, SERVED
from unshard.vllm.lazy_weight import BytesRead, LazyWeight

logger = logging.getLogger("vllm.unshard")  # below vLLM's own, so that it is shown as theirs is


class UnshardLoader(BaseModelLoader):  # type: ignore[misc]  # vLLM is not there to be checked
    """Fills vLLM's OPT from a checkpoint in any layout.

    The checkpoint is `source` of `--model-loader-extra-config`, or the model's folder itself.
    Which slices a rank takes is vLLM's matter: it is given tensors that are read when copied.
    """

    def __init__(self, load_config: Any) -> None:
        super().__init__(load_config)
        extra = dict(load_config.model_loader_extra_config or {})
        self._source: str | None = extra.pop("source", None)
        if extra:
            raise UsageError(
                f"load format {LOAD_FORMAT}: unknown setting {next(iter(extra))!r}",
                hint="""it has one: --model-loader-extra-config '{"source": "FOLDER"}'""",
            )

    def download_model(self, model_config: Any) -> None:
        """There is nothing to download."""

    def load_weights(self, model: Any, model_config: Any) -> None:
        """Fills `model`, this rank's part.

        Raises:
            UsageError, FormatError, CheckpointError: as from opening the checkpoint.
            CheckpointError: `model_config` describes another model, or a parameter stayed empty.
        """
        start = time.monotonic()
        source = str(self._source or model_config.model)
        checkpoint = open_lazily(source)
        _check_described(source, checkpoint.config, model_config.hf_config)
        num_read = BytesRead()
        loaded = model.load_weights(weights(checkpoint, num_read))
        _check_complete(source, model, loaded, model_config)
        seconds = time.monotonic() - start
        logger.info(
            "unshard: read %d bytes of %s in %.1f s", num_read.count, Path(source).name, seconds
        )


def register() -> None:
    """Make the load format known: the entry point `vllm.general_plugins`, which vLLM calls in each
    of its processes."""
    register_model_loader(LOAD_FORMAT)(UnshardLoader)
    if SERVED in os.environ and multiprocessing.parent_process() is not None:
        # vLLM's own processes wait for ever for a server that was killed.
        end_with_parent(os.getppid())


def weights(checkpoint: LazyCheckpoint, num_read: BytesRead) -> Iterator[tuple[str, LazyWeight]]:
    """Every tensor of Hugging Face's OPT by its name there, lazily."""
    rules = tensor_rules(checkpoint.config)
    for name, tensor in checkpoint.items():
        theirs = rules[name].hugging_face_name
        if theirs is not None:
            yield theirs, LazyWeight(tensor, num_read)


def _check_described(source: str, config: OPTConfig, described: Any) -> None:
    """What shapes do not show, such as the number of heads, would be computed wrongly."""
    for ours, theirs in MODEL_FIELDS.items():
        found, said = getattr(config, ours), getattr(described, theirs, None)
        if found != said:
            raise CheckpointError(
                f"{source}: its {theirs} is {found}, but vLLM was told {said}",
                hint="give vLLM the config.json that belongs to this checkpoint",
            )


def _check_complete(source: str, model: Any, loaded: set[str] | None, model_config: Any) -> None:
    if loaded is None or model_config.quantization is not None:
        return  # a quantized model's parameters are made of the weights: vLLM alone knows how
    empty = {name for name, _ in model.named_parameters()} - loaded
    if empty:
        raise CheckpointError(f"{source}: vLLM's parameter {min(empty)} was not filled")
