"""The health scan: one pass over all weights, then a second look at what is suspect."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from typing import TypeVar

from unshard.architectures.opt import weight_names
from unshard.execute.workers import DEFAULT_WORKERS
from unshard.health.findings import Finding, HealthReport
from unshard.health.oddities import constant_pages, differing_copies
from unshard.health.outliers import limits_of
from unshard.health.second_look import look_again, suspect
from unshard.health.tensor_pass import pass_over
from unshard.progress import Progress, Silent
from unshard.tensors import LogicalTensor, TensorIndex

T = TypeVar("T")
R = TypeVar("R")


def scan_health(
    source: str,
    index: TensorIndex,
    *,
    workers: int = DEFAULT_WORKERS,
    progress: Progress | None = None,
) -> HealthReport:
    """Reads every weight of the checkpoint and every further copy once, `workers` tensors at
    a time, and the blocks that hold something suspect once more.

    Memory is some MiB per worker and some KiB per tensor, whatever the model's size.

    Raises:
        UsageError: a weight holds integers.
        FormatError: a file is shorter than its headers said.
    """
    progress = progress or Silent()
    weights = [index[name] for name in weight_names(index)]
    num_bytes = sum(tensor.num_bytes * (1 + len(tensor.replicas)) for tensor in weights)
    progress.start("health", num_bytes)
    passes = _in_threads(lambda tensor: pass_over(tensor, progress), weights, workers)
    limits = limits_of({seen.tensor.name: seen.statistics for seen in passes})
    suspects = [suspect(seen, limits[seen.tensor.name]) for seen in passes]
    num_bytes_again = sum(each.num_bytes for each in suspects)
    if num_bytes_again:
        progress.start("second look", num_bytes_again)
    looks = _in_threads(lambda each: look_again(each, progress), suspects, workers)
    findings = [
        *chain.from_iterable(looks),
        *chain.from_iterable(map(differing_copies, passes)),
        *constant_pages(passes),
    ]
    return HealthReport(
        source,
        tuple(seen.statistics for seen in passes),
        limits,
        _in_order(findings, weights),
        num_bytes,
        num_bytes_again,
    )


def _in_threads(work: Callable[[T], R], items: Sequence[T], workers: int) -> list[R]:
    """`work` of every item, in order; the first failure ends what has not begun."""
    pool = ThreadPoolExecutor(workers, thread_name_prefix="health")
    try:
        return list(pool.map(work, items))
    finally:
        pool.shutdown(cancel_futures=True)


def _in_order(findings: Iterable[Finding], weights: Sequence[LogicalTensor]) -> tuple[Finding, ...]:
    """Corrupt before suspicious, then in model order."""
    rank = {tensor.name: number for number, tensor in enumerate(weights)}
    return tuple(sorted(findings, key=lambda each: (each.severity != "corrupt", rank[each.tensor])))
