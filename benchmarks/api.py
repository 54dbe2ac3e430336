"""What HTTP adds to the engine: the time to the first token of a stream, one request at a time,
minus the engine's own, and the processor's time for each streamed token.

    python benchmarks/api.py [--src CHECKPOINT] [--pairs 120] [--tokens 2000]

The server is a process of its own, the engine one more in this process, both on the same model
and threads. A pair is one request to each with the same prompt, one after the other, the first of
a pair being each in turn; the median of the differences is the API's. Prompts differ in their
last characters, as a cache would answer for one that it knows. The processor's time of the server
is that of its whole process, as Linux counts it. Prints a table; the last line is JSON.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import queue
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import torch

import unshard
from unshard.engine.engine_thread import EngineThread
from unshard.engine.load import load_engine
from unshard.engine.request import GenerationOutput, GenerationRequest, SamplingParams
from unshard.index.build import open_checkpoint

DEMO = Path(unshard.__file__).parent / "demo_model"
PROMPT = "KING HENRY.\nNow, lords,"
WARM_UP, SHORT, LONG = 10, 4, 200
"""Requests before it counts; tokens of a request whose first one counts, and of one whose
processor's time does."""

Ask = Callable[[int, int], float]
"""Request i for n tokens -> seconds to the first one, once all of them have come."""


@dataclass(frozen=True, slots=True)
class Alone:
    """The engine in this process."""

    engine: EngineThread
    encode: Callable[[str], list[int]]

    def ask(self, number: int, tokens: int) -> float:
        outputs: queue.Queue[GenerationOutput] = queue.Queue()
        start = time.perf_counter()
        ids = (2, *self.encode(f"{PROMPT}{number}"))
        params = SamplingParams(max_tokens=tokens, temperature=0)
        self.engine.submit(GenerationRequest(str(number), ids, params), outputs.put)
        output = outputs.get(timeout=60)
        first = time.perf_counter() - start
        while not output.finished:
            output = outputs.get(timeout=60)
        return first

    def cpu_seconds(self) -> float:
        return time.process_time()


@dataclass(frozen=True, slots=True)
class Served:
    """`unshard serve` on the same model."""

    process: subprocess.Popen[str]
    address: str
    connection: http.client.HTTPConnection = field(init=False)

    def __post_init__(self) -> None:
        connection = http.client.HTTPConnection(self.address, timeout=60)
        object.__setattr__(self, "connection", connection)

    def ask(self, number: int, tokens: int) -> float:
        body = {"prompt": f"{PROMPT}{number}", "max_tokens": tokens, "temperature": 0}
        start = time.perf_counter()
        self.connection.request(
            "POST",
            "/v1/completions",
            json.dumps(body | {"stream": True}),
            {"content-type": "application/json"},
        )
        answer = self.connection.getresponse()
        answer.readline()
        first = time.perf_counter() - start
        rest = answer.read()
        if answer.status != http.HTTPStatus.OK or b"[DONE]" not in rest:
            raise RuntimeError(f"the server answered {answer.status}: {rest[:200]!r}")
        return first

    def cpu_seconds(self) -> float:
        """utime and stime of proc_pid_stat(5)."""
        numbers = Path(f"/proc/{self.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(numbers[11]) + int(numbers[12])) / os.sysconf("SC_CLK_TCK")


@contextmanager
def engine_alone(src: str) -> Iterator[Alone]:
    engine = load_engine(open_checkpoint(src))
    thread = EngineThread(engine)
    try:
        yield Alone(thread, engine.tokenizer.encode)
    finally:
        thread.close()


@contextmanager
def server(src: str) -> Iterator[Served]:
    command = [sys.executable, "-m", "unshard", "serve", src, "--port", "0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr is not None
            line = process.stderr.readline()
            if "http://" not in line:
                raise RuntimeError(f"the server did not start: {line}{process.stderr.read()}")
            yield Served(process, line.split("http://", 1)[1].split()[0].rstrip("/"))
        finally:
            process.terminate()


def first_tokens(served: Ask, alone: Ask, pairs: int) -> dict[str, float]:
    """Medians in milliseconds."""
    for number in range(WARM_UP):
        served(number, SHORT)
        alone(number, SHORT)
    found = []
    for number in range(WARM_UP, WARM_UP + pairs):
        if number % 2:
            through, own = served(number, SHORT), alone(number, SHORT)
        else:
            own, through = alone(number, SHORT), served(number, SHORT)
        found.append((through, own))
    return {
        "http_ms": 1e3 * statistics.median(through for through, _ in found),
        "engine_ms": 1e3 * statistics.median(own for _, own in found),
        "api_ms": 1e3 * statistics.median(through - own for through, own in found),
    }


def cpu_ms_per_token(contestant: Served | Alone, tokens: int) -> float:
    requests = max(1, tokens // LONG)
    before = contestant.cpu_seconds()
    for number in range(requests):
        contestant.ask(-1 - number, LONG)
    return 1e3 * (contestant.cpu_seconds() - before) / (requests * LONG)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--src", default=str(DEMO), help="a checkpoint in any layout")
    parser.add_argument("--pairs", type=int, default=120)
    parser.add_argument("--tokens", type=int, default=2000)
    arguments = parser.parse_args()
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    with engine_alone(arguments.src) as alone, server(arguments.src) as served:
        found = first_tokens(served.ask, alone.ask, arguments.pairs)
        found["server_cpu_ms"] = cpu_ms_per_token(served, arguments.tokens)
        found["engine_cpu_ms"] = cpu_ms_per_token(alone, arguments.tokens)
    print("| | through HTTP | the engine | the API |\n|---|---|---|---|")
    through, own, api = found["http_ms"], found["engine_ms"], found["api_ms"]
    print(f"| first token, ms | {through:.2f} | {own:.2f} | {api:.2f} |")
    through, own = found["server_cpu_ms"], found["engine_cpu_ms"]
    print(f"| processor per token, ms | {through:.2f} | {own:.2f} | {through - own:.2f} |")
    print(json.dumps(found))


if __name__ == "__main__":
    main()
