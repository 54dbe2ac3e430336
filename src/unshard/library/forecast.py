"""A plan of the whole way: sizes, the link's end, each step, the machines that could serve."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime

from unshard.architectures.opt import weight_names
from unshard.dtypes import BFLOAT16
from unshard.index.checkpoint import Checkpoint
from unshard.library.fitting import Fit, cache_bytes_per_token, fits
from unshard.library.machines import Machine
from unshard.library.steps import (
    Step,
    download_step,
    reshard_steps,
    serve_steps,
    verify_step,
)


@dataclass(frozen=True, slots=True)
class LinkForecast:
    """A download against the end of its link."""

    bytes_per_s: float | None
    """None where no rate is known."""
    elapsed_s: float | None
    link_end: datetime | None
    """None where the link does not say."""
    link_left_s: float | None
    needed_bytes_per_s: float | None
    """The rate at which the download ends with the link."""
    ends_in_time: bool | None


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """What the headers say."""

    layout: str
    tp_size: int
    fsdp_size: int
    num_parameters: int
    dtypes: tuple[str, ...]
    weight_bytes: int
    max_positions: int
    cache_bytes_per_token: int
    """In 16 bits, of all ranks together."""


def forecast_link(
    num_bytes: int, bytes_per_s: float | None, link_end: datetime | None, now: datetime
) -> LinkForecast:
    """`num_bytes` to come at a rate, by a link that ends."""
    elapsed_s = num_bytes / bytes_per_s if bytes_per_s else None
    left_s = max((link_end - now).total_seconds(), 0.0) if link_end else None
    return LinkForecast(
        bytes_per_s,
        elapsed_s,
        link_end,
        left_s,
        needed_bytes_per_s=num_bytes / left_s if left_s else None,
        ends_in_time=None if elapsed_s is None or left_s is None else elapsed_s <= left_s,
    )


def model_facts(checkpoint: Checkpoint) -> ModelFacts:
    """The model in the numbers that forecasts are made of."""
    layout, config, index = checkpoint.layout, checkpoint.config, checkpoint.index
    weights = [index[name] for name in weight_names(index)]
    return ModelFacts(
        layout.kind,
        layout.tp_size,
        layout.fsdp_size,
        sum(tensor.num_elements for tensor in weights),
        tuple(sorted({tensor.dtype.name for tensor in weights})),
        sum(tensor.num_bytes for tensor in weights),
        config.max_positions,
        cache_bytes_per_token(config, BFLOAT16.itemsize_bytes),
    )


@dataclass(frozen=True, slots=True)
class Forecast:
    """All of it; `model` and what follows from it are absent where no header could be read."""

    num_files: int
    num_bytes: int
    largest_file_bytes: int
    link: LinkForecast | None
    """None for files that are here."""
    model: ModelFacts | None
    steps: tuple[Step, ...]
    free_memory_bytes: int
    """Of this machine, now."""
    machines: tuple[Fit, ...]


def forecast(
    sizes: Mapping[str, int],
    checkpoint: Checkpoint | None,
    link: LinkForecast | None,
    *,
    tp_size: int | None,
    num_cores: int,
    free_memory_bytes: int,
    machines: Iterable[Machine],
) -> Forecast:
    """What is to come for files of these `sizes`, by name, that are behind `link` or here.

    Raises:
        UsageError: the model does not split into `tp_size` parts.
    """
    num_bytes = sum(sizes.values())
    steps = [download_step(num_bytes, link.elapsed_s)] if link else []
    steps.append(verify_step(num_bytes, num_cores))
    if checkpoint is not None:
        steps += reshard_steps(checkpoint, sizes, tp_size)
        steps += serve_steps(checkpoint, sizes, free_memory_bytes)
    return Forecast(
        len(sizes),
        num_bytes,
        max(sizes.values()),
        link,
        model_facts(checkpoint) if checkpoint else None,
        tuple(steps),
        free_memory_bytes,
        tuple(fits(checkpoint.config, machines)) if checkpoint else (),
    )
