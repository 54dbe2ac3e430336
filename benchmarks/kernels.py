"""The native kernels against what torch has for the same work: one process, interleaved, medians.

    python benchmarks/kernels.py [--threads N] [--runs N] [--level avx512|avx2|portable]

Rates of a shared machine mean little; ratios within one run are what to carry over. With one
thread (the default) it is that thread's own time that counts, which neighbours disturb least.
`bandwidth` is the share of what torch reaches when it sums the same bytes. Prints a table, then
one line of JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from unshard.kernels import int8
from unshard.kernels.attention import BLOCK_ROWS, paged_attention
from unshard.kernels.library import SWITCH, kernels
from unshard.models.linear import Form, Linear

Work = Callable[[], object]


@dataclass(frozen=True, slots=True)
class Case:
    """Work of ours and of torch. `summed` sums the bytes that the memory-bound ones have to read,
    `baselines` names what each is compared with."""

    name: str
    work: dict[str, Work]
    summed: dict[str, Work]
    baselines: dict[str, str]


def attention_case(
    name: str, sequences: int, length: int, queries: int, dtype: torch.dtype
) -> Case:
    """`queries` new tokens for each sequence of `length`, 12 heads of 64; torch attends to
    contiguous tensors, in fp32 for one query (its bf16 is several times slower there)."""
    heads, head_dim = 12, 64
    width = -(-length // BLOCK_ROWS)
    tables = torch.randperm(sequences * width).view(sequences, width).int()
    cache = torch.randn(sequences * width, 2, heads, BLOCK_ROWS, head_dim).to(dtype)
    kvq = torch.randn(sequences * queries, 3 * heads * head_dim).to(dtype)
    starts = torch.arange(0, sequences * queries + 1, queries).int()
    lengths = torch.full((sequences,), length).int()
    peer_dtype = torch.float32 if queries == 1 else dtype
    q = torch.randn(sequences, heads, queries, head_dim).to(peer_dtype)
    k, v = torch.randn(2, sequences, heads, length, head_dim).to(peer_dtype)
    seen = torch.ones(queries, length, dtype=torch.bool).tril(length - queries)
    mask = None if queries == 1 else seen
    return Case(
        name,
        {
            "torch": lambda: F.scaled_dot_product_attention(q, k, v, attn_mask=mask),
            "ours": lambda: paged_attention(kvq, cache, tables, starts, lengths, heads),
        },
        {"ours": summing([cache])} if queries == 1 else {},
        {"torch": "torch", "ours": "torch"},
    )


def linear_case(out_features: int, in_features: int, rows: int) -> Case:
    """As many layers as leave the caches, so that each weight comes from memory. Torch has
    oneDNN's packed weights; `ours` is what a model does."""
    copies = max(1, 60_000_000 // (out_features * in_features))
    onednn = torch.ops.mkldnn
    work: dict[str, Work] = {}
    summed: dict[str, Work] = {}

    for dtype, name in ((torch.float32, "fp32"), (torch.bfloat16, "bf16")):
        x = torch.randn(rows, in_features).to(dtype)
        weights = []
        for _ in range(copies):
            weights.append(Form(dtype, torch.device("cpu")).empty_matrix(out_features, in_features))
            weights[-1].normal_()
        packed = [onednn._reorder_linear_weight(w, None) for w in weights]  # noqa: SLF001
        linears = [Linear(weight) for weight in weights]
        for linear in linears:
            linear.pack()
        work[f"torch {name}"] = multiplying_packed(packed, x)
        work[f"ours {name}"] = calling(linears, x)
        summed[f"ours {name}"] = summing(weights)
    rounded = [int8.pack(weight, None) for weight in weights]
    single = torch.randn(rows, in_features)
    with_outliers = single.clone()
    with_outliers[:, :: in_features // 6] *= 60
    for name, x in (("int8", single), ("int8, outliers", with_outliers)):
        work[name] = multiplying_rounded(rounded, x)
        summed[name] = summing([weight.packed for weight in rounded])
    return Case(
        f"linear {in_features} to {out_features}, {rows} rows",
        work,
        summed if rows == 1 else {},
        {name: "torch fp32" if "fp32" in name else "torch bf16" for name in work},
    )


def multiplying_packed(weights: list[Tensor], x: Tensor) -> Work:
    multiply = torch.ops.mkldnn._linear_pointwise  # noqa: SLF001
    return lambda: [multiply(x, weight, None, "none", [], "") for weight in weights]


def calling(linears: list[Linear], x: Tensor) -> Work:
    return lambda: [linear(x) for linear in linears]


def multiplying_rounded(weights: list[int8.Int8Weight], x: Tensor) -> Work:
    return lambda: [int8.linear(weight, x) for weight in weights]


def summing(tensors: list[Tensor]) -> Work:
    words = [tensor.view(torch.int32) for tensor in tensors]
    return lambda: [each.sum(dtype=torch.int32) for each in words]


def cases() -> Iterator[Case]:
    for dtype in (torch.float32, torch.bfloat16):
        name = str(dtype).removeprefix("torch.")
        yield attention_case(f"decode 1 x 512, {name}", 1, 512, 1, dtype)
        yield attention_case(f"decode 32 x 256, {name}", 32, 256, 1, dtype)
        yield attention_case(f"decode 8 x 2000, {name}", 8, 2000, 1, dtype)
        yield attention_case(f"prompt of 512, {name}", 1, 512, 512, dtype)
        yield attention_case(f"256 after 768, {name}", 1, 1024, 256, dtype)
    for rows in (1, 4, 16, 32, 128, 512):
        yield linear_case(3072, 768, rows)
        yield linear_case(8192, 2048, rows)
    yield linear_case(50272, 768, 1)


def measure(case: Case, runs: int, clock: Callable[[], float]) -> list[dict[str, str | float]]:
    """Medians of `runs` interleaved runs after one to warm up."""
    work = case.work | {f"summed for {name}": each for name, each in case.summed.items()}
    seconds: dict[str, list[float]] = {name: [] for name in work}
    for number in range(runs + 1):
        for name, each in work.items():
            start = clock()
            each()
            if number:
                seconds[name].append(clock() - start)
    rows: list[dict[str, str | float]] = []
    for name in case.work:
        row: dict[str, str | float] = {
            "case": case.name,
            "work": name,
            "ms": 1000 * statistics.median(seconds[name]),
            "ratio": ratio(seconds[case.baselines[name]], seconds[name]),
        }
        if name in case.summed:
            row["bandwidth"] = ratio(seconds[f"summed for {name}"], seconds[name])
        rows.append(row)
    return rows


def ratio(baseline: list[float], ours: list[float]) -> float:
    return statistics.median(a / b for a, b in zip(baseline, ours, strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--runs", type=int, default=9)
    parser.add_argument("--level", choices=["avx512bf16", "avx512", "avx2", "portable"])
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.level:
        os.environ[SWITCH] = arguments.level
    library = kernels()
    if library is None:
        parser.error("the kernels are not compiled: make kernels")
    clock = time.thread_time if arguments.threads == 1 else time.perf_counter
    print(f"{'case':<34}{'work':<20}{'ms':>9}{'ratio':>8}{'bandwidth':>11}")
    rows = []
    for case in cases():
        for row in measure(case, arguments.runs, clock):
            share = f"{row['bandwidth']:>11.2f}" if "bandwidth" in row else ""
            print(f"{row['case']:<34}{row['work']:<20}{row['ms']:>9.2f}{row['ratio']:>8.2f}{share}")
            rows.append(row)
    print(json.dumps(vars(arguments) | {"level": library.level, "rows": rows}))


if __name__ == "__main__":
    main()
