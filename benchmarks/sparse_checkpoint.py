"""A raw checkpoint in the shape of OPT-175B, 350 GB in name and a fraction of that on disk.

    python benchmarks/sparse_checkpoint.py DIR [--tp 8] [--fsdp 124] [--layers 96]

Headers, pickles and checksums are real; the weights are holes in the files, which read as
zeros. The pickles of a part differ as a trainer's do: in ranks and in clock times. For
measuring what must not depend on the weights: opening, planning, `reshard --dry-run`.
"""

from __future__ import annotations

import argparse
import math
import zlib
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from unshard.architectures.opt import FUSED_ORDER, VERSION_BUFFER, OPTConfig, tensor_rules
from unshard.dtypes import FLOAT16
from unshard.formats.pickle_encode import encode_pickle
from unshard.formats.records import Global, PersistentId, PickledObject
from unshard.formats.torch_release import TORCH_1_13
from unshard.formats.torch_zip_layout import (
    ZipEntry,
    data_offset,
    descriptor,
    directory,
    lay_out,
    local_header,
)
from unshard.placement import local_box
from unshard.tensors import Shape

OPT_175B = OPTConfig(
    num_layers=96,
    hidden_size=12288,
    num_heads=96,
    ffn_dim=4 * 12288,
    vocab_size=50272,
    max_positions=2048,
    embedding_size=12288,
)
TRAINING_ARGUMENTS = 250
"""About as many as metaseq's command line had."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("directory", type=Path, metavar="DIR")
    parser.add_argument("--tp", type=int, default=8, help="tensor-parallel parts")
    parser.add_argument("--fsdp", type=int, default=124, help="FSDP shards of each part")
    parser.add_argument("--layers", type=int, default=96)
    arguments = parser.parse_args()
    config = replace(OPT_175B, num_layers=arguments.layers)
    write_sparse_checkpoint(arguments.directory, config, arguments.tp, arguments.fsdp)
    files = list(arguments.directory.iterdir())
    claimed = sum(path.stat().st_size for path in files)
    taken = sum(path.stat().st_blocks for path in files) * 512
    print(f"{len(files)} files, {claimed / 1e9:.1f} GB, {taken / 1e9:.2f} GB on disk")


def write_sparse_checkpoint(folder: Path, config: OPTConfig, tp_size: int, fsdp_size: int) -> None:
    """Writes `checkpoint_last-model_part-{t}-shard{f}.pt` for every rank into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    units = fsdp_units(config, tp_size)
    for tp_rank in range(tp_size):
        for fsdp_rank in range(fsdp_size):
            rank = fsdp_rank * tp_size + tp_rank
            content, storages = rank_content(config, units, tp_size, fsdp_rank, fsdp_size, rank)
            path = folder / f"checkpoint_last-model_part-{tp_rank}-shard{fsdp_rank}.pt"
            write_sparse_archive(path, encode_pickle(content), storages)


def fsdp_units(config: OPTConfig, tp_size: int) -> dict[str, dict[str, Shape]]:
    """Local shapes by name, by FSDP unit: the root's, then each layer's. K, V, Q are fused."""
    units: dict[str, dict[str, Shape]] = {"": {}}
    for name, rule in tensor_rules(config).items():
        if name == VERSION_BUFFER:
            continue
        _, shape = local_box(name, rule.shape, rule.placement, 0, tp_size)
        unit = ".".join(name.split(".")[:3]) if name.startswith("decoder.layers.") else ""
        short = name.removeprefix(f"{unit}.")
        if FUSED_ORDER[0] in short:
            short = short.replace(FUSED_ORDER[0], "qkv_proj")
            shape = (len(FUSED_ORDER) * shape[0], *shape[1:])
        elif any(projection in short for projection in FUSED_ORDER):
            continue
        units.setdefault(unit, {})[short] = shape
    return units


def rank_content(
    config: OPTConfig,
    units: Mapping[str, Mapping[str, Shape]],
    tp_size: int,
    fsdp_rank: int,
    fsdp_size: int,
    rank: int,
) -> tuple[dict[str, Any], list[int]]:
    """What one rank pickles, and the number of elements of each of its storages."""
    storages: list[int] = []
    model: dict[str, PickledObject] = {}
    metadata = []
    for unit, shapes in units.items():
        numels = [math.prod(shape) for shape in shapes.values()]
        share = math.ceil(sum(numels) / fsdp_size)
        padding = min(max((fsdp_rank + 1) * share - sum(numels), 0), share)
        model[f"{unit}.flat_param_0".lstrip(".")] = tensor(storages, share)
        if not unit:
            model[VERSION_BUFFER] = tensor(storages, 1)
        flat = {"names": list(shapes), "shapes": list(shapes.values()), "numels": numels}
        metadata.append(
            {
                "fsdp_path": unit,
                "params": {"flat_param_0": {**flat, "padding": padding}},
                "no_broadcast_optim_state": False,
                "shared_param_info": [],
            }
        )
    content = {
        "cfg": training_config(config, tp_size, rank),
        "model": model,
        "criterion": None,
        "optimizer_history": [{"optimizer_name": "MemoryEfficientFP16Optimizer"}],
        "task_state": {},
        "extra_state": {"previous_training_time": 1e6 + rank / 7, "train_iterator": {"epoch": 1}},
        "shard_metadata": {"param_metadata": metadata, "buffer_names": [VERSION_BUFFER]},
    }
    return content, storages


def tensor(storages: list[int], num_elements: int) -> PickledObject:
    """A one-dimensional fp16 tensor with a storage of its own, which joins `storages`."""
    kind, key = Global("torch", FLOAT16.torch_storage), str(len(storages))
    storages.append(num_elements)
    storage = PersistentId(("storage", kind, key, "cpu", num_elements))
    hooks = PickledObject(Global("collections", "OrderedDict"), ())
    args = (storage, 0, (num_elements,), (1,), False, hooks)
    return PickledObject(Global("torch._utils", "_rebuild_tensor_v2"), args)


def training_config(config: OPTConfig, tp_size: int, rank: int) -> dict[str, Any]:
    ranks = {"distributed_rank": rank, "device_id": rank % 8}
    model = PickledObject(Global("argparse", "Namespace"), (), by_new=True)
    model.has_state = True
    model.state = {
        "_name": "transformer_lm_megatron",
        "activation_fn": config.activation,
        "decoder_attention_heads": config.num_heads,
        "model_parallel_size": tp_size,
        **{f"argument_{number}": f"value {number}" for number in range(TRAINING_ARGUMENTS)},
        **ranks,
    }
    return {"_name": None, "distributed_training": {**ranks}, "model": model}


def write_sparse_archive(path: Path, pickle: bytes, storages: list[int]) -> None:
    """An archive of torch 1.13 whose storages are holes."""
    root, release = path.stem, TORCH_1_13
    literals = {f"{root}/{name}": data for name, data in release.after_storages.items()}
    keys = release.ordered(str(key) for key in range(len(storages)))
    sizes = [(f"{root}/data.pkl", len(pickle))]
    sizes += [(f"{root}/data/{key}", 2 * storages[int(key)]) for key in keys]
    sizes += [(name, len(data)) for name, data in literals.items()]
    literals[f"{root}/data.pkl"] = pickle
    laid_out, num_bytes = lay_out(sizes)
    entries = [checksummed(entry, literals.get(entry.name)) for entry in laid_out]
    with path.open("wb") as file:
        for entry in entries:
            file.seek(entry.header_offset)
            file.write(local_header(entry) + literals.get(entry.name, b""))
            file.seek(data_offset(entry) + entry.num_bytes)
            file.write(descriptor(entry))
        file.write(directory(entries, file.tell()))
        assert file.tell() == num_bytes


def checksummed(entry: ZipEntry, literal: bytes | None) -> ZipEntry:
    crc = crc_of_zeros(entry.num_bytes) if literal is None else zlib.crc32(literal)
    return replace(entry, crc32=crc)


@cache
def crc_of_zeros(num_bytes: int) -> int:
    return zlib.crc32(bytes(num_bytes))


if __name__ == "__main__":
    main()
