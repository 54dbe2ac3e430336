"""Writes the weights as a raw, FSDP-sharded and tensor-parallel metaseq checkpoint."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .layout import Unit, part_of, units
from .metaseq_config import configuration
from .settings import Architecture, Recipe, ShardGrid
from .train import Trained


@dataclass(frozen=True)
class Shard:
    """One rank's share of one FSDP unit."""

    flat: Tensor
    metadata: dict[str, Any]


def shards_of(unit: Unit, weights: dict[str, Tensor], part: int, grid: ShardGrid) -> list[Shard]:
    """Flattens one part of a unit and cuts it into equal, zero-padded shards."""
    pieces = {
        name: part_of(weights[unit.full_name(name)], division, part, grid.parts)
        for name, division in unit.parameters
    }
    flat = torch.cat([piece.flatten() for piece in pieces.values()])
    length = -(-len(flat) // grid.shards)
    shards = []
    for rank in range(grid.shards):
        own = flat[rank * length : (rank + 1) * length]
        padded = torch.zeros(length, dtype=flat.dtype)
        padded[: len(own)] = own
        shards.append(Shard(padded, metadata(unit, pieces, length - len(own))))
    return shards


def metadata(unit: Unit, pieces: dict[str, Tensor], padding: int) -> dict[str, Any]:
    """What FSDP notes down about one unit."""
    tied = ("decoder.embed_tokens.weight", "decoder.output_projection.weight")
    flat = {
        "names": list(pieces),
        "shapes": [tuple(piece.shape) for piece in pieces.values()],
        "numels": [piece.numel() for piece in pieces.values()],
        "padding": padding,
    }
    return {
        "fsdp_path": unit.path,
        "params": {"flat_param_0": flat},
        "no_broadcast_optim_state": False,
        "shared_param_info": [] if unit.path else [tied],
    }


def model_state(all_units: list[Unit], shards: list[Shard]) -> dict[str, Tensor]:
    """The flat tensors of one rank; the version buffer follows the root unit."""
    state: dict[str, Tensor] = {}
    for unit, shard in zip(all_units, shards, strict=True):
        state[unit.full_name("flat_param_0")] = shard.flat
        if not unit.path:
            state["decoder.version"] = torch.tensor([3.0], dtype=shard.flat.dtype)
    return state


def trainer_state(step: int) -> dict[str, Any]:
    """What the trainer stores beside the model."""
    history = {
        "criterion_name": "VocabParallelCrossEntropyCriterion",
        "optimizer_name": "MemoryEfficientFP16Optimizer",
        "lr_scheduler_state": {"best": None},
        "num_updates": step,
    }
    return {
        "criterion": None,
        "optimizer_history": [history],
        "task_state": {},
        "extra_state": {
            "metrics": {},
            "previous_training_time": 0.0,
            "train_iterator": {"epoch": 1, "iterations_in_epoch": step},
            "val_loss": None,
        },
    }


def write(
    trained: Trained,
    folder: Path,
    architecture: Architecture,
    recipe: Recipe,
    grid: ShardGrid,
) -> None:
    """Writes every shard file and their checksums; the same weights give the same bytes."""
    all_units = units(architecture.layers)
    for part in range(grid.parts):
        by_unit = [shards_of(unit, trained.weights, part, grid) for unit in all_units]
        for rank, shards in enumerate(zip(*by_unit, strict=True)):
            content = {
                "cfg": configuration(architecture, recipe, grid),
                "model": model_state(all_units, list(shards)),
                **trainer_state(trained.step),
                "shard_metadata": {
                    "param_metadata": [shard.metadata for shard in shards],
                    "buffer_names": ["decoder.version"],
                },
            }
            torch.save(content, folder / grid.file_name(part, rank))
    write_checksums(folder)


def write_checksums(folder: Path) -> None:
    """The md5 list in the form of OPT's own: sorted as text, no newline at the end."""
    rows = [
        f"{path.name},{hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()}"
        for path in sorted(folder.glob("*-model_part-*-shard*.pt"), key=lambda path: path.name)
    ]
    (folder / "md5sum_shards.csv").write_text("\n".join(["shard,md5sum", *rows]))
