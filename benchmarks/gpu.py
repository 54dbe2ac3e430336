"""How near a device's own limits the engine comes: random weights of any OPT's shape, made on the
device, so nothing is downloaded or copied there.

    python benchmarks/gpu.py --shape 13b --dtype bf16 [--layers N] [--device cuda] [--out FOLDER]

In this order: the device's ceilings (memory bandwidth, matrix product), the engine's logits
against plain fp32 arithmetic on the same weights (in int4 on their rounded values; it ends with
exit code 1 where they differ too much), then decoding against the bandwidth, and a prompt against
the product; on a GPU decoding once more, by CUDA graphs. `--layers` takes fewer layers where the
model does not fit; shares stay comparable, rates do not. Prints the figures
and writes them as JSON with card, driver and date.
"""

from __future__ import annotations

import argparse
import json
import platform
import re
import shutil
import statistics
import subprocess
import sys
import time
import zlib
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from unshard.architectures.opt import POSITION_OFFSET, OPTConfig, tensor_rules
from unshard.engine.block_table import num_blocks_for
from unshard.engine.engine import Engine
from unshard.engine.graphs import Record, Recording, record_for
from unshard.engine.paged_cache import PagedCache, default_cache_dtype
from unshard.engine.request import GenerationRequest, SamplingParams
from unshard.engine.runner import Runner
from unshard.engine.step import StepLayout
from unshard.engine.tokenizer import Tokenizer
from unshard.execute.model_sink import TORCH_DTYPES, put_rows
from unshard.kernels import int4
from unshard.kernels.attention import PagedAttention, suits
from unshard.kernels.library import kernels
from unshard.library.precisions import INT4, PRECISIONS, Precision, int4_group
from unshard.models.opt import OPTModel

SHAPES = {
    # layers, hidden size, heads, vocabulary
    "tiny": (2, 128, 4, 512),
    "125m": (12, 768, 12, 50272),
    "1.3b": (24, 2048, 32, 50272),
    "2.7b": (32, 2560, 32, 50272),
    "6.7b": (32, 4096, 32, 50272),
    "13b": (40, 5120, 40, 50272),
    "30b": (48, 7168, 56, 50272),
    "66b": (64, 9216, 72, 50272),
    "175b": (96, 12288, 96, 50272),
}
MOST_ERROR = {"fp32": 1e-3, "fp16": 0.03, "bf16": 0.2, "int8": 0.3, "int4": 0.2}
"""Of a logit, in standard deviations of all logits: rounding, and no wrong row or mask. In int4
what is rounded to 4 bits is so in the reference, too: its error would hide a wrong row."""
BATCHES = (1, 8)
ROWS_AT_ONCE = 1024
"""Of a matrix that is rounded: what it takes in fp32 is to be little beside the model."""


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much is measured."""

    copied_bytes: int
    """Far more than any cache holds, but for a quick run."""
    matrix: int
    prompt: int
    tokens: int
    runs: int


FULL = Sizes(copied_bytes=2 << 30, matrix=8192, prompt=1024, tokens=128, runs=5)
QUICK = Sizes(copied_bytes=16 << 20, matrix=256, prompt=48, tokens=8, runs=2)


@dataclass(frozen=True, slots=True)
class Ceilings:
    """What the device does at best, measured."""

    bytes_per_s: float
    flops_per_s: float


@dataclass(frozen=True, slots=True)
class Figure:
    """One rate, and its share of what the ceiling would allow."""

    name: str
    tokens_per_s: float
    share_of_ceiling: float


def shape_of(name: str, layers: int | None) -> OPTConfig:
    num_layers, hidden, heads, vocab = SHAPES[name]
    return OPTConfig(layers or num_layers, hidden, heads, 4 * hidden, vocab, 2048, hidden)


def seconds(work: Callable[[], object], device: torch.device, runs: int) -> float:
    """Median of `runs` after one to warm up, until the device is done."""
    taken = []
    for _ in range(runs + 1):
        _wait(device)
        start = time.perf_counter()
        work()
        _wait(device)
        taken.append(time.perf_counter() - start)
    return statistics.median(taken[1:])


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def ceilings(device: torch.device, dtype: torch.dtype, sizes: Sizes) -> Ceilings:
    """Bandwidth: the better of a copy (each byte read and written) and a sum (read)."""
    source = torch.ones(sizes.copied_bytes // dtype.itemsize, dtype=dtype, device=device)
    copied = torch.empty_like(source)
    copy = 2 * sizes.copied_bytes / seconds(lambda: copied.copy_(source), device, sizes.runs)
    read = sizes.copied_bytes / seconds(source.sum, device, sizes.runs)
    n = sizes.matrix
    a, b = (torch.randn(n, n, device=device).to(dtype) for _ in range(2))
    product = 2 * n**3 / seconds(lambda: a @ b, device, sizes.runs)
    return Ceilings(max(copy, read), product)


class Weights:
    """Random tensors, the same each time one is asked for: the model is filled with them, and the
    reference makes each anew, so that neither is ever there twice."""

    def __init__(self, config: OPTConfig, precision: Precision, device: torch.device) -> None:
        self._rules = tensor_rules(config)
        self._precision = precision
        self._device = device

    def __call__(self, name: str) -> Tensor:
        """In the model's dtype. Norms are about 1, rows of matrices have about length 1."""
        shape = self._rules[name].shape
        generator = torch.Generator(self._device).manual_seed(zlib.crc32(name.encode()))
        drawn = torch.empty(shape, dtype=TORCH_DTYPES[self._precision.exact], device=self._device)
        drawn.normal_(std=shape[1] ** -0.5 if len(shape) > 1 else 0.02, generator=generator)
        return drawn + 1 if name.endswith("norm.weight") else drawn

    def exact(self, name: str) -> Tensor:
        """The same values in fp32."""
        return self(name).float()

    def matrix(self, name: str) -> Tensor:
        """(out, in) in fp32, as rows are multiplied with it."""
        exact = self.exact(name)
        group = int4_group(exact.shape[1]) if self._precision is INT4 else None
        if group is not None:
            for rows in exact.split(ROWS_AT_ONCE):
                rows.copy_(int4.rounded_to_int4(rows, group))
        return exact


def build(
    config: OPTConfig, precision: Precision, device: torch.device, sizes: Sizes
) -> tuple[OPTModel, PagedCache]:
    """The model on `device`, filled matrix by matrix, with a cache for the largest batch that is
    measured."""
    dtype = TORCH_DTYPES[precision.exact]
    model = OPTModel(config, dtype, device, matrix_bits=precision.matrix_bits)
    weights = Weights(config, precision, device)
    with torch.inference_mode():
        for name, target in model.weight_targets().items():
            first = 0
            for rows in weights(name).split(ROWS_AT_ONCE):
                put_rows(target, first, rows)
                first += len(rows)
        model.finalize()
    is_native = kernels() is not None and suits(config.head_dim, device)
    cache_dtype = model.dtype if is_native else default_cache_dtype(model.dtype, device)
    num_blocks = max(BATCHES) * num_blocks_for(sizes.prompt + sizes.tokens + 1)
    return model, PagedCache(config, num_blocks, cache_dtype, device)


def runner_of(model: OPTModel, cache: PagedCache, record: Record | None = None) -> Runner:
    is_native = kernels() is not None and suits(model.config.head_dim, model.device)
    return Runner(model, cache, PagedAttention if is_native else None, record)


class Recorder:
    """Records as the engine does, and keeps what it was that could not be recorded: the engine
    goes on without, and its figures would bear the wrong name."""

    def __init__(self, record: Record) -> None:
        self._record = record
        self.failure: str | None = None

    def __call__(self, compute: Callable[[], Tensor]) -> Recording:
        try:
            return self._record(compute)
        except RuntimeError as error:
            self.failure = str(error)
            raise


def reference_logits(config: OPTConfig, weights: Weights, ids: Tensor) -> Tensor:
    """(T, V) fp32, by the plain formulas: no cache, no fused projection, one matrix at a time."""
    get = weights.exact

    def linear(name: str, x: Tensor) -> Tensor:
        return F.linear(x, weights.matrix(f"{name}.weight"), get(f"{name}.bias"))

    def norm(name: str, x: Tensor) -> Tensor:
        return F.layer_norm(x, x.shape[-1:], get(f"{name}.weight"), get(f"{name}.bias"))

    def heads(x: Tensor) -> Tensor:
        return x.view(len(ids), config.num_heads, config.head_dim).transpose(0, 1)

    x = get("decoder.embed_tokens.weight")[ids]
    x = x + get("decoder.embed_positions.weight")[POSITION_OFFSET:][: len(ids)]
    future = torch.ones(len(ids), len(ids), dtype=torch.bool, device=ids.device).triu(1)
    for number in range(config.num_layers):
        layer = f"decoder.layers.{number}"
        normed = norm(f"{layer}.self_attn_layer_norm", x)
        k, v, q = (heads(linear(f"{layer}.self_attn.{letter}_proj", normed)) for letter in "kvq")
        scores = (q @ k.transpose(1, 2) * config.head_dim**-0.5).masked_fill(future, -torch.inf)
        attended = (scores.softmax(-1) @ v).transpose(0, 1).reshape(len(ids), -1)
        x = x + linear(f"{layer}.self_attn.out_proj", attended)
        inner = linear(f"{layer}.fc1", norm(f"{layer}.final_layer_norm", x)).relu()
        x = x + linear(f"{layer}.fc2", inner)
    return norm("decoder.layer_norm", x) @ get("decoder.embed_tokens.weight").T


def logits_error(runner: Runner, weights: Weights, device: torch.device) -> float:
    """The largest difference, of a prompt and of one more token upon it, in standard deviations
    of the reference's logits."""
    config = runner.config
    ids = torch.randint(4, config.vocab_size, (40,), generator=torch.Generator().manual_seed(1))
    told, last = ids.tolist(), len(ids) - 1
    table = (range(num_blocks_for(len(told))),)
    prompt = runner.compute(told[:last], StepLayout(table, (last,), (last,)))
    after = runner.compute(told[last:], StepLayout(table, (1,), (last + 1,)))
    found = runner.logits(torch.cat([prompt, after]))
    expected = reference_logits(config, weights, ids.to(device))
    return float((found - expected).abs().max() / expected.std())


def generate(runner: Runner, batch: int, prompt: int, tokens: int) -> list[float]:
    """When each step ended, in seconds from the start."""
    engine = Engine(runner, Tokenizer({}, []), batch)
    generator = torch.Generator().manual_seed(2)
    params = SamplingParams(max_tokens=tokens, min_tokens=tokens, temperature=0)
    for number in range(batch):
        ids = torch.randint(4, runner.config.vocab_size, (prompt,), generator=generator).tolist()
        engine.add(GenerationRequest(str(number), tuple(ids), params))
    start, ends = time.perf_counter(), []
    while engine.has_work:
        engine.step()  # a token is on the host when it returns
        ends.append(time.perf_counter() - start)
    return ends


def matrices(config: OPTConfig) -> list[tuple[int, int]]:
    """Shapes of what each token is multiplied with, in one layer."""
    hidden, ffn = config.hidden_size, config.ffn_dim
    return [(3 * hidden, hidden), (hidden, hidden), (ffn, hidden), (hidden, ffn)]


def matrix_parameters(config: OPTConfig) -> int:
    """Weights that each token is multiplied with, in layers."""
    return config.num_layers * sum(rows * columns for rows, columns in matrices(config))


def decode(
    runner: Runner,
    batch: int,
    precision: Precision,
    limits: Ceilings,
    sizes: Sizes,
    how: str = "",
) -> Figure:
    """Tokens after the first, against the time in which all weights, and the keys and values of
    all contexts, can be read once per step."""
    config, prompt = runner.config, sizes.prompt // 8
    generate(runner, batch, prompt, sizes.tokens)
    steps = []
    for _ in range(sizes.runs):
        ends = generate(runner, batch, prompt, sizes.tokens)[-sizes.tokens :]
        steps.append((ends[-1] - ends[0]) / (len(ends) - 1))
    step = statistics.median(steps)
    weights = config.num_layers * sum(map(precision.matrix_bytes, matrices(config)))
    weights += precision.matrix_bytes((config.vocab_size, config.hidden_size))
    cached = 2 * config.num_layers * config.hidden_size * (prompt + sizes.tokens // 2)
    read = weights + batch * cached * precision.exact.itemsize_bytes
    return Figure(f"decode, batch {batch}{how}", batch / step, read / limits.bytes_per_s / step)


def prefill(runner: Runner, limits: Ceilings, sizes: Sizes) -> Figure:
    """A prompt up to its first token, against the time of its products."""
    config, n = runner.config, sizes.prompt
    generate(runner, 1, n, 1)
    taken = statistics.median(generate(runner, 1, n, 1)[-1] for _ in range(sizes.runs))
    causal = 2 * config.num_layers * config.hidden_size * n * n  # QKᵀ and PV, each half of a square
    output = 2 * config.vocab_size * config.hidden_size
    flops = 2 * matrix_parameters(config) * n + causal + output
    return Figure(f"prompt of {n}", n / taken, flops / limits.flops_per_s / taken)


def machine(device: torch.device) -> dict[str, str | int]:
    """The card and what drives it."""
    found: dict[str, str | int] = {"torch": torch.__version__}
    if device.type == "cpu":
        said = Path("/proc/cpuinfo").read_text()
        named = re.search(r"model name\s*:\s*(.*)", said)
        card = named[1] if named else platform.machine()
        return found | {"card": card, "threads": torch.get_num_threads()}
    found |= {
        "card": torch.cuda.get_device_name(device),
        "memory_bytes": torch.cuda.get_device_properties(device).total_memory,
        "cuda": str(torch.version.cuda),
        "driver": "unknown",
    }
    if shutil.which("nvidia-smi"):
        query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        told = subprocess.run(query, capture_output=True, text=True, check=False).stdout
        found["driver"] = (told.splitlines() or ["unknown"])[0]
    return found


def measure(arguments: argparse.Namespace) -> dict[str, object]:
    """All figures, as they are written."""
    device = torch.device(arguments.device)
    precision, sizes = PRECISIONS[arguments.dtype], QUICK if arguments.quick else FULL
    torch.backends.cuda.matmul.allow_tf32 = False  # the reference is fp32
    config = shape_of(arguments.shape, arguments.layers)
    limits = ceilings(device, TORCH_DTYPES[precision.exact], sizes)
    model, cache = build(config, precision, device, sizes)
    runner, record = runner_of(model, cache), record_for(model)
    weights = Weights(config, precision, device)
    figures: list[Figure] = []
    with torch.inference_mode():
        error = logits_error(runner, weights, device)
        if is_right := error <= MOST_ERROR[precision.name]:
            figures = [decode(runner, batch, precision, limits, sizes) for batch in BATCHES]
            figures.append(prefill(runner, limits, sizes))
        graphs = None
        if is_right and record is not None:
            recorder = Recorder(record)
            recorded = runner_of(model, cache, recorder)
            error = max(error, logits_error(recorded, weights, device))
            is_right = error <= MOST_ERROR[precision.name]
            rows = [
                decode(recorded, batch, precision, limits, sizes, ", graphs") for batch in BATCHES
            ]
            graphs = recorder.failure or "recorded"
            figures += rows if recorder.failure is None else []
    result: dict[str, object] = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": machine(device),
        "shape": arguments.shape,
        "layers": config.num_layers,
        "dtype": precision.name,
        "sizes": asdict(sizes),
        "ceilings": asdict(limits),
        "logits_error": error,
        "is_right": is_right,
        "graphs": graphs,
        "figures": [asdict(figure) for figure in figures],
    }
    if device.type == "cuda":
        result["peak_memory_bytes"] = torch.cuda.max_memory_allocated(device)
    return result


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shape", choices=SHAPES, default="125m")
    parser.add_argument("--layers", type=int, help="fewer of them (default: the shape's)")
    parser.add_argument("--dtype", choices=PRECISIONS, default="bf16")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    parser.add_argument("--quick", action="store_true", help="small sizes: no figures to quote")
    arguments = parser.parse_args()
    is_cpu = arguments.device == "cpu"
    if arguments.dtype == ("fp16" if is_cpu else "int8"):
        parser.error(f"the engine does not compute {arguments.dtype} on {arguments.device}")
    result = measure(arguments)
    arguments.out.mkdir(parents=True, exist_ok=True)
    written = json.dumps(result, indent=2) + "\n"
    card = re.sub(r"\W+", "-", str(machine(torch.device(arguments.device))["card"]))
    name = f"gpu-{card}-{arguments.shape}-{arguments.dtype}-{result['date']}.json"
    (arguments.out / name.replace(":", "")).write_text(written)
    print(written, end="")
    if not result["is_right"]:
        most = MOST_ERROR[arguments.dtype]
        print(f"logits are off by {result['logits_error']}, more than {most}", file=sys.stderr)
    return 0 if result["is_right"] else 1


if __name__ == "__main__":
    sys.exit(main())
