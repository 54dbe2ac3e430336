"""Synthetic raw metaseq checkpoints of any shape, from a seed, with the truth beside them.

Written with numpy and zipfile alone, by the rules that the original trainer follows and not
by the code that reads them, so that tests can compare the two.
"""

from __future__ import annotations

import math
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from unshard.architectures.opt import OPTConfig
from unshard.dtypes import FLOAT16, FLOAT32, DType
from unshard.formats.pickle_encode import encode_pickle
from unshard.formats.records import Global, PersistentId, PickledObject

Array = npt.NDArray[Any]
Split = Literal["rows", "columns", "whole", "fused"]
Unit = tuple[str, list[tuple[str, tuple[int, ...], Split]]]

TINY = OPTConfig(
    num_layers=2,
    hidden_size=16,
    num_heads=4,
    ffn_dim=24,
    vocab_size=56,
    max_positions=11,
    embedding_size=16,
)
"""Small, and with real padding for most numbers of shards."""


def write_tiny_checkpoint(
    directory: str | Path,
    config: OPTConfig = TINY,
    *,
    tp_size: int = 2,
    fsdp_size: int = 3,
    dtype: DType = FLOAT16,
    fused: bool = True,
    seed: int = 0,
) -> dict[str, Array]:
    """Writes `checkpoint_last-model_part-{t}-shard{f}.pt` for every rank into `directory`.

    Returns the whole model: canonical name -> array in `dtype` (fp16 or fp32).
    """
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(seed)
    kind = np.float16 if dtype is FLOAT16 else np.float32
    units = list(_units(config, fused))
    stored = {
        _join(path, name): (random.standard_normal(shape, np.float32) * np.float32(0.05)).astype(
            kind
        )
        for path, tensors in units
        for name, shape, _ in tensors
    }
    for tp_rank in range(tp_size):
        flats = {
            path: np.concatenate(
                [
                    _slice(stored[_join(path, name)], split, tp_rank, tp_size).reshape(-1)
                    for name, _, split in tensors
                ]
            )
            for path, tensors in units
        }
        for fsdp_rank in range(fsdp_size):
            name = f"checkpoint_last-model_part-{tp_rank}-shard{fsdp_rank}.pt"
            content = _Shard(config, units, flats, tp_size, fsdp_rank, fsdp_size)
            content.write(directory / name)
    return _canonical(stored)


def _units(config: OPTConfig, fused: bool) -> Iterator[Unit]:
    """FSDP units as the trainer makes them: the root's own tensors, then one per layer."""
    hidden, narrow, ffn = config.hidden_size, config.embedding_size, config.ffn_dim
    root: list[tuple[str, tuple[int, ...], Split]] = [
        ("decoder.embed_tokens.weight", (config.vocab_size, narrow), "rows")
    ]
    if narrow != hidden:
        root.append(("decoder.project_in_dim.weight", (hidden, narrow), "whole"))
    root.append(("decoder.embed_positions.weight", (config.max_positions + 2, hidden), "whole"))
    if config.pre_norm:
        root += [(f"decoder.layer_norm.{part}", (hidden,), "whole") for part in ("weight", "bias")]
    if narrow != hidden:
        root.append(("decoder.project_out_dim.weight", (narrow, hidden), "whole"))
    if not config.tied_embeddings:
        root.append(("decoder.output_projection.weight", (config.vocab_size, narrow), "rows"))
    yield "", root
    attention: list[tuple[str, tuple[int, ...], Split]] = (
        [
            ("qkv_proj.weight", (3 * hidden, hidden), "fused"),
            ("qkv_proj.bias", (3 * hidden,), "fused"),
        ]
        if fused
        else [
            (f"{letter}_proj.{part}", (hidden, hidden)[: 2 if part == "weight" else 1], "rows")
            for letter in "kvq"
            for part in ("weight", "bias")
        ]
    )
    layer: list[tuple[str, tuple[int, ...], Split]] = [
        *((f"self_attn.{name}", shape, split) for name, shape, split in attention),
        ("self_attn.out_proj.weight", (hidden, hidden), "columns"),
        ("self_attn.out_proj.bias", (hidden,), "whole"),
        ("self_attn_layer_norm.weight", (hidden,), "whole"),
        ("self_attn_layer_norm.bias", (hidden,), "whole"),
        ("fc1.weight", (ffn, hidden), "rows"),
        ("fc1.bias", (ffn,), "rows"),
        ("fc2.weight", (hidden, ffn), "columns"),
        ("fc2.bias", (hidden,), "whole"),
        ("final_layer_norm.weight", (hidden,), "whole"),
        ("final_layer_norm.bias", (hidden,), "whole"),
    ]
    for number in range(config.num_layers):
        yield f"decoder.layers.{number}", layer


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _slice(whole: Array, split: Split, rank: int, size: int) -> Array:
    match split:
        case "whole":
            return whole
        case "rows":
            return np.split(whole, size)[rank]
        case "columns":
            return np.split(whole, size, axis=1)[rank]
        case "fused":  # K, V and Q are each split by rows
            return np.concatenate([np.split(block, size)[rank] for block in np.split(whole, 3)])


def _canonical(stored: Mapping[str, Array]) -> dict[str, Array]:
    truth: dict[str, Array] = {}
    for name, whole in stored.items():
        if ".qkv_proj." in name:
            for letter, block in zip("kvq", np.split(whole, 3), strict=True):
                truth[name.replace("qkv_proj", f"{letter}_proj")] = block
        else:
            truth[name] = whole
    version = np.array([3.0], next(iter(stored.values())).dtype)
    return truth | {"decoder.version": version}


class _Shard:
    """One rank's file: its slice of every flat parameter, and the metadata."""

    def __init__(
        self,
        config: OPTConfig,
        units: list[Unit],
        flats: Mapping[str, Array],
        tp_size: int,
        fsdp_rank: int,
        fsdp_size: int,
    ) -> None:
        self.config, self.units, self.flats = config, units, flats
        self.tp_size, self.fsdp_rank, self.fsdp_size = tp_size, fsdp_rank, fsdp_size
        self.storages: list[Array] = []

    def write(self, path: Path) -> None:
        model: dict[str, PickledObject] = {}
        metadata = []
        for unit, tensors in self.units:
            flat = self.flats[unit]
            share = math.ceil(flat.size / self.fsdp_size)
            mine = flat[self.fsdp_rank * share : (self.fsdp_rank + 1) * share]
            padding = share - mine.size
            model[_join(unit, "flat_param_0")] = self.tensor(np.pad(mine, (0, padding)))
            if not unit:
                model["decoder.version"] = self.tensor(np.array([3.0], flat.dtype))
            metadata.append(self.unit_metadata(unit, tensors, padding))
        content = {
            "cfg": self.cfg(),
            "model": model,
            "criterion": None,
            "optimizer_history": [{"optimizer_name": "MemoryEfficientFP16Optimizer"}],
            "task_state": {},
            "extra_state": {"train_iterator": {"epoch": 1}, "val_loss": None},
            "shard_metadata": {
                "param_metadata": metadata,
                "buffer_names": ["decoder.version"],
            },
        }
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr(f"{path.stem}/data.pkl", encode_pickle(content))
            for key, storage in enumerate(self.storages):
                archive.writestr(f"{path.stem}/data/{key}", storage.tobytes())
            archive.writestr(f"{path.stem}/version", "3\n")

    def tensor(self, values: Array) -> PickledObject:
        self.storages.append(values)
        kind = (FLOAT16 if values.dtype == np.float16 else FLOAT32).torch_storage
        storage = (
            "storage",
            Global("torch", kind),
            str(len(self.storages) - 1),
            "cpu",
            values.size,
        )
        hooks = PickledObject(Global("collections", "OrderedDict"), ())
        args = (PersistentId(storage), 0, values.shape, (1,), False, hooks)
        return PickledObject(Global("torch._utils", "_rebuild_tensor_v2"), args)

    def unit_metadata(
        self, unit: str, tensors: list[tuple[str, tuple[int, ...], Split]], padding: int
    ) -> dict[str, Any]:
        shapes = [self.local_shape(shape, split) for _, shape, split in tensors]
        tied = ("decoder.embed_tokens.weight", "decoder.output_projection.weight")
        return {
            "fsdp_path": unit,
            "params": {
                "flat_param_0": {
                    "names": [name for name, _, _ in tensors],
                    "shapes": shapes,
                    "numels": [math.prod(shape) for shape in shapes],
                    "padding": padding,
                }
            },
            "no_broadcast_optim_state": False,
            "shared_param_info": [tied] if not unit and self.config.tied_embeddings else [],
        }

    def local_shape(self, shape: tuple[int, ...], split: Split) -> tuple[int, ...]:
        if split == "whole":
            return shape
        if split == "columns":
            return (shape[0], shape[1] // self.tp_size)
        return (shape[0] // self.tp_size, *shape[1:])

    def cfg(self) -> dict[str, Any]:
        model = PickledObject(Global("argparse", "Namespace"), (), by_new=True)
        model.has_state = True
        model.state = {
            "_name": "transformer_lm_megatron",
            "activation_fn": self.config.activation,
            "decoder_attention_heads": self.config.num_heads,
            "model_parallel_size": self.tp_size,
        }
        return {"_name": None, "common": {"seed": 1}, "model": model}
