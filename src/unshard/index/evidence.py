"""What a layout was recognised by, in plain sentences: one per conclusion."""

from __future__ import annotations

from collections.abc import Iterator

from unshard.architectures.opt import OPTConfig, known_model
from unshard.index.arguments import FIELDS, ModelArguments
from unshard.index.fused import is_fused
from unshard.index.grid import Grid
from unshard.index.part import PartTensors


def naming_evidence(grid: Grid) -> str:
    """How many ranks the files' names give."""
    rows = list(grid.values())
    first = next(iter(rows[0].values()))
    parts = f"{len(rows)} tensor-parallel part{'s' if len(rows) > 1 else ''}"
    if first.tp_rank is None:
        parts = "one tensor-parallel part (no -model_part-N)"
    shards = f"{len(rows[0])} FSDP shard{'s' if len(rows[0]) > 1 else ''}"
    if first.fsdp_rank is None:
        shards = "one file each (no -shardN)" if len(rows) > 1 else "one file (no -shardN)"
    return f"file names give {parts} x {shards}"


def storage_evidence(part: PartTensors, layers_per_block: int, *, named: bool) -> Iterator[str]:
    """How the weights are stored; `named` says whether the files themselves name tensors."""
    if part.flat:
        yield "the files hold flat parameters (flat_param_0, …), so they are raw"
    else:
        yield "the files hold whole tensors by name, so they are consolidated"
    if layers_per_block > 1:
        yield f"names are decoder.layers.N.layers.j: layers are in blocks of {layers_per_block}"
    if named and any(map(is_fused, part.tensors)):
        yield "qkv_proj is stored: K, V and Q are fused, in the order K, V, Q"
    elif named:
        yield "k_proj, v_proj and q_proj are stored: K, V and Q are separate"


def model_evidence(config: OPTConfig, arguments: ModelArguments) -> Iterator[str]:
    """What the shapes of the tensors do not say, and where cfg says something else."""
    heads = f"{config.num_heads} attention heads"
    if arguments.num_heads is not None:
        yield f"cfg gives {heads}"
    else:
        known = known_model(config.num_layers, config.hidden_size)
        yield f"no cfg gives the number of heads; {known[0] if known else 'OPT'} has {heads}"
    if not config.pre_norm:
        yield "there is no decoder.layer_norm: post-norm, as OPT-350M"
    for field in ("max_positions", "embedding_size", "pre_norm"):
        said, found = getattr(arguments, field), getattr(config, field)
        if said is not None and said != found:
            yield f"cfg says {FIELDS[field]} is {said}, the tensors make {found}: they count"
