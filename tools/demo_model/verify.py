"""Reads the written checkpoint back and merges it by the rules of the format."""

import hashlib
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .settings import ShardGrid


def read_part(folder: Path, part: int, grid: ShardGrid) -> dict[str, Tensor]:
    """Joins one part's shards, drops the padding, and cuts the parameters out again."""
    files = [
        torch.load(folder / grid.file_name(part, shard), weights_only=False)
        for shard in range(grid.shards)
    ]
    tensors: dict[str, Tensor] = {}
    for index, unit in enumerate(files[0]["shard_metadata"]["param_metadata"]):
        key = ".".join(filter(None, [unit["fsdp_path"], "flat_param_0"]))
        flat = torch.cat([unpadded(file, index, key) for file in files])
        names, shapes, numels, _ = unit["params"]["flat_param_0"].values()
        for name, shape, piece in zip(names, shapes, torch.split(flat, numels), strict=True):
            tensors[".".join(filter(None, [unit["fsdp_path"], name]))] = piece.view(shape)
    return tensors


def unpadded(file: dict[str, Any], index: int, key: str) -> Tensor:
    """One shard of one flat tensor without its padding, which must be zero."""
    unit = file["shard_metadata"]["param_metadata"][index]
    flat: Tensor = file["model"][key]
    length = len(flat) - int(unit["params"]["flat_param_0"]["padding"])
    if flat[length:].any():
        raise ValueError(f"{key}: the padding is not zero")
    return flat[:length]


def merge(name: str, pieces: list[Tensor]) -> Tensor:
    """Undoes the tensor-parallel split of one parameter."""
    if "qkv_proj" in name:
        blocks = [piece.chunk(3) for piece in pieces]
        return torch.cat([torch.cat([block[i] for block in blocks]) for i in range(3)])
    if name.endswith(("out_proj.weight", "fc2.weight")):
        return torch.cat(pieces, dim=1)
    if "embed_tokens" in name or ".fc1." in name:
        return torch.cat(pieces)
    if any(not torch.equal(pieces[0], piece) for piece in pieces):
        raise ValueError(f"{name}: replicas differ")
    return pieces[0]


def check_weights(folder: Path, weights: dict[str, Tensor], grid: ShardGrid) -> None:
    """Raises unless the files hold exactly the given fp16 weights."""
    parts = [read_part(folder, part, grid) for part in range(grid.parts)]
    merged = {name: merge(name, [part[name] for part in parts]) for name in parts[0]}
    if merged.keys() != weights.keys():
        raise ValueError("the files hold other parameters than the network")
    for name, expected in weights.items():
        if not torch.equal(merged[name].view(torch.int16), expected.view(torch.int16)):
            raise ValueError(f"{name}: the files differ from the trained weights")


def check_checksums(folder: Path) -> None:
    """Raises unless the checksum list is true."""
    for row in (folder / "md5sum_shards.csv").read_text().splitlines()[1:]:
        name, listed = row.split(",")
        content = (folder / name).read_bytes()
        if hashlib.md5(content, usedforsecurity=False).hexdigest() != listed:
            raise ValueError(f"{name}: md5 differs from the list")


def check_size(folder: Path, limit: int = 8_000_000) -> int:
    """The bytes of all files together; raises if the bundle is too big to ship."""
    total = sum(path.stat().st_size for path in folder.iterdir())
    if total >= limit:
        raise ValueError(f"the bundle has {total} bytes, the limit is {limit}")
    return total
