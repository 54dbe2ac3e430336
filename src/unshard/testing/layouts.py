"""Every layout that unshard reads, by name, ready to be written."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, Literal, Protocol

from unshard.architectures.opt import OPTConfig
from unshard.dtypes import BFLOAT16, FLOAT32
from unshard.testing.tiny_checkpoint import write_tiny_checkpoint
from unshard.testing.tiny_hugging_face import HuggingFaceForm, write_tiny_hugging_face
from unshard.testing.tiny_metaseq import MetaseqForm
from unshard.testing.tiny_model import TINY, Array
from unshard.testing.tiny_parts import write_tiny_parts


class LayoutWriter(Protocol):
    """Writes a checkpoint into a directory and returns the whole model: see the writers."""

    def __call__(
        self, directory: str | Path, config: OPTConfig = TINY, *, seed: int = 0
    ) -> dict[str, Array]: ...


def _raw(tp_size: int = 2, fsdp_size: int = 3, **form: Any) -> LayoutWriter:
    return partial(
        write_tiny_checkpoint, tp_size=tp_size, fsdp_size=fsdp_size, form=MetaseqForm(**form)
    )


def _flat_2022(**form: Any) -> LayoutWriter:
    name, form = "reshard-model_part-{part}.pt", {"shard_metadata": False, **form}
    return partial(
        write_tiny_checkpoint, tp_size=2, fsdp_size=1, name=name, form=MetaseqForm(**form)
    )


def _parts(
    tp_size: int = 2,
    storages: Literal["unit", "tensor"] = "unit",
    metadata_tp_size: int | None = None,
    name: str = "reshard-model_part-{part}.pt",
    **form: Any,
) -> LayoutWriter:
    return partial(
        write_tiny_parts, tp_size=tp_size, storages=storages, metadata_tp_size=metadata_tp_size,
        name=name, form=MetaseqForm(**form),
    )  # fmt: skip


def _hugging_face(**form: Any) -> LayoutWriter:
    return partial(write_tiny_hugging_face, form=HuggingFaceForm(**form))


LAYOUTS: Mapping[str, LayoutWriter] = {
    # Flat parameters, as the trainer writes them.
    "raw": _raw(),
    "raw, one rank": _raw(1, 1),
    "raw, shards of padding alone": _raw(1, 61),
    "raw, K V Q separate": _raw(fused=False),
    "raw, one unit for everything": _raw(wrapping="root"),
    "raw, units of two layers": _raw(wrapping=2),
    "raw, optimizer state": _raw(optimizer_state=True),
    "raw, shapes as torch.Size": _raw(shapes="size"),
    "raw, shapes as lists": _raw(shapes="list"),
    "raw, scalar version": _raw(version="scalar"),
    "raw, no version": _raw(version="absent"),
    "raw, fp32": _raw(dtype=FLOAT32),
    "raw, bf16": _raw(dtype=BFLOAT16),
    "raw, cfg of dicts": _raw(arguments="dict"),
    "raw, cfg of omegaconf": _raw(arguments="dictconfig"),
    "raw, args": _raw(arguments="args"),
    # Flat parameters without shard_metadata: the releases of 2022.
    "flat, 2022": _flat_2022(),
    "flat, 2022, K V Q separate": _flat_2022(fused=False),
    "flat, 2022, one unit for everything": _flat_2022(wrapping="root"),
    "flat, 2022, sharded": _raw(2, 5, shard_metadata=False),
    # Whole tensors by name: what reshard_fsdp and reshard_mp write.
    "parts, a storage per unit": _parts(),
    "parts, a storage per tensor": _parts(storages="tensor"),
    "parts, shapes of other parts": _parts(4, "tensor", metadata_tp_size=2),
    "parts, K V Q separate": _parts(fused=False),
    "parts, units of two layers": _parts(wrapping=2),
    "parts, no shard_metadata": _parts(shard_metadata=False),
    "parts, output projection copied": _parts(output_copy="copy"),
    "parts, output projection a view": _parts(output_copy="view"),
    "parts, named shard0": _parts(name="reshard-model_part-{part}-shard0.pt"),
    "parts, named as OPT-IML": _parts(name="checkpoint_1_4000.pt-model_part-{part}.pt"),
    "one file": _parts(1, name="reshard.pt"),
    # Hugging Face.
    "safetensors": _hugging_face(),
    "safetensors, several files": _hugging_face(num_files=3),
    "safetensors, no prefix": _hugging_face(prefix=""),
    "safetensors, output projection copied": _hugging_face(output_copy=True),
    "bin": _hugging_face(container="bin"),
    "bin, several files": _hugging_face(container="bin", num_files=3, prefix=""),
    "bin, output projection a view": _hugging_face(container="bin", output_copy=True),
}
"""Layouts by a name for people. Models with an untied output projection or a narrow
embedding fit all of them."""
