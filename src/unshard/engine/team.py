"""One model on several ranks: an engine on rank 0, followers on the others."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch._C._distributed_c10d import Store

from unshard.architectures.opt import OPTConfig
from unshard.engine.engine import Engine
from unshard.engine.follower import follow
from unshard.engine.leader import LeadingRunner, Verdict
from unshard.engine.load import check_computable, load_runner, load_tokenizer
from unshard.engine.runner import Runner
from unshard.errors import UsageError
from unshard.index.checkpoint import Checkpoint
from unshard.library.precisions import INT8, Precision
from unshard.parallel.place import Place
from unshard.parallel.ranks import Ranks
from unshard.parallel.watch import broken_group
from unshard.progress import Progress, Silent


@dataclass(frozen=True, slots=True)
class TeamModel:
    """What all ranks load, each its slice."""

    checkpoint: Checkpoint
    precision: Precision
    device: str
    """cpu or cuda; each rank has the GPU of its number on its machine."""
    max_batch: int
    cache_sequences: int | None = None
    """As of `load_engine`."""
    cpu_offload_gb: float = 0
    """Of each rank."""
    enforce_eager: bool = False
    """As of `load_engine`; the steps of several ranks are never recorded."""


def check_team(model: TeamModel, place: Place) -> None:
    """Whether `model` can be split over `place.size` ranks: before anything is started or read.

    Raises:
        UsageError: it cannot, or `device` is not one for several ranks.
    """
    size, config = place.size, model.checkpoint.config
    if model.precision is INT8:
        raise UsageError("int8 does not run on several ranks yet", hint="use bf16 or int4")
    if model.device not in ("cpu", "cuda"):
        raise UsageError(
            f"--device {model.device} is one device, and there are {size} ranks",
            hint="use cpu or cuda; each rank takes the GPU of its number",
        )
    _check_splits(config, size)
    check_computable(model.checkpoint, model.precision, device_of(model, place))


def _check_splits(config: OPTConfig, size: int) -> None:
    for what, number in (("attention heads", config.num_heads), ("FFN columns", config.ffn_dim)):
        if number % size:
            raise UsageError(
                f"the model's {number} {what} do not divide by {size} tensor-parallel ranks",
                hint=f"use one of {', '.join(map(str, possible_sizes(config)))} ranks",
            )


def possible_sizes(config: OPTConfig) -> list[int]:
    """Every number of ranks over which the model can be split."""
    heads = config.num_heads
    return [n for n in range(1, heads + 1) if heads % n == 0 and config.ffn_dim % n == 0]


def device_of(model: TeamModel, place: Place) -> str:
    return f"cuda:{place.local_rank}" if model.device == "cuda" else model.device


def join(model: TeamModel, place: Place, store: Store, verdict: Verdict) -> Ranks:
    """The group, once all ranks are there; this process computes with its share of the cores.

    Raises:
        WorkerLostError: they did not get through to each other.
    """
    torch.set_num_threads(place.num_threads)

    def check() -> None:
        if (lost := verdict()) is not None:
            raise lost

    try:
        return Ranks(place, store, torch.device(device_of(model, place)), check)
    except RuntimeError as error:  # gloo's and NCCL's
        raise verdict() or broken_group(place.size, error) from error


def lead(
    model: TeamModel, ranks: Ranks, verdict: Verdict, progress: Progress
) -> tuple[Engine, LeadingRunner]:
    """The engine of rank 0, and its runner to be closed at the end.

    Raises:
        UsageError, FormatError: as from `load_engine`.
        WorkerLostError: another rank ended meanwhile.
    """
    tokenizer = load_tokenizer(model.checkpoint)
    runner = _runner(model, ranks, progress)
    leader = LeadingRunner(runner, ranks, verdict)
    return Engine(leader, tokenizer, model.max_batch), leader


def be_led(model: TeamModel, ranks: Ranks) -> None:
    """The life of another rank; returns when rank 0 ends it.

    Raises:
        FormatError: a weight file is damaged.
    """
    follow(_runner(model, ranks, Silent()), ranks)
    ranks.leave()


def _runner(model: TeamModel, ranks: Ranks, progress: Progress) -> Runner:
    return load_runner(
        model.checkpoint,
        precision=model.precision,
        device=device_of(model, ranks.place),
        cache_sequences=model.cache_sequences or model.max_batch,
        cpu_offload_gb=model.cpu_offload_gb,
        progress=progress,
        group=ranks,
    )
