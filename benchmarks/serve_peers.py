"""One contestant of benchmarks/serve.py: an engine that generates what it is told to.

    python serve_peers.py ENGINE MODEL fp32|bf16|int8 THREADS

It runs with the Python of the engine's own environment, and so needs nothing but that engine.
Requests are lines of JSON on stdin, {"prompts": [[id, ...], ...], "counts": [n, ...]}: all
prompts at once, n tokens to generate greedily for each. The answer to each is a line on stdout,
{"seconds": s, "counts": [n, ...], "peak_bytes": n}, counted from the request's arrival until the
last token; peak memory is the process's up to then. Whatever the engine prints goes to stderr.

`ceilings` in place of an engine measures what the machine can do, with torch: bytes read from
memory and operations of matrices per second.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

Generate = Callable[[list[list[int]], list[int]], list[int]]
"""Prompts and how many tokens to generate for each -> how many were."""
PAD, EOS = 1, 2


def by_unshard(model: str, dtype: str, threads: int) -> Generate:
    import torch  # noqa: PLC0415 - each engine is imported in its own environment alone

    torch.set_num_threads(threads)
    from unshard.engine.load import load_engine  # noqa: PLC0415
    from unshard.engine.request import GenerationRequest, SamplingParams  # noqa: PLC0415
    from unshard.index.build import open_checkpoint  # noqa: PLC0415
    from unshard.library.precisions import PRECISIONS  # noqa: PLC0415

    engine = load_engine(open_checkpoint(model), precision=PRECISIONS[dtype], max_batch=32)

    def generate(prompts: list[list[int]], counts: list[int]) -> list[int]:
        generated = [0] * len(prompts)
        for number, (prompt, count) in enumerate(zip(prompts, counts, strict=True)):
            params = SamplingParams(max_tokens=count, temperature=0)
            engine.add(GenerationRequest(str(number), tuple(prompt), params))
        while engine.has_work:
            for output in engine.step():
                generated[int(output.request_id)] += len(output.tokens)
        return generated

    return generate


def by_transformers(model: str, dtype: str, threads: int) -> Generate:
    """One static batch, padded on the left; rows that have their tokens are padded on."""
    import torch  # noqa: PLC0415
    import transformers  # noqa: PLC0415

    torch.set_num_threads(threads)
    torch_dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[dtype]
    opt = transformers.OPTForCausalLM.from_pretrained(model, dtype=torch_dtype).eval()

    def generate(prompts: list[list[int]], counts: list[int]) -> list[int]:
        longest = max(map(len, prompts))
        ids = torch.tensor([[PAD] * (longest - len(prompt)) + prompt for prompt in prompts])
        mask = torch.tensor(
            [[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts]
        )
        with torch.inference_mode():
            out = opt.generate(
                ids,
                attention_mask=mask,
                max_new_tokens=max(counts),
                min_new_tokens=max(counts),
                do_sample=False,
                pad_token_id=PAD,
            )
        return [min(count, out.shape[1] - longest) for count in counts]

    return generate


def by_ctranslate2(model: str, dtype: str, threads: int) -> Generate:
    """One batch; a row that has its tokens leaves it."""
    import ctranslate2  # noqa: PLC0415

    compute_type = {"fp32": "float32", "bf16": "bfloat16", "int8": "int8_float32"}[dtype]
    generator = ctranslate2.Generator(
        model, device="cpu", compute_type=compute_type, inter_threads=1, intra_threads=threads
    )
    vocabulary = json.loads(Path(model, "vocabulary.json").read_text())

    def generate(prompts: list[list[int]], counts: list[int]) -> list[int]:
        generated = [0] * len(prompts)

        def is_enough(token: Any) -> bool:
            row: int = token.batch_id
            generated[row] += 1
            return generated[row] >= counts[row]

        # The steps in which a longer prompt is still read count as its output's.
        most = max(counts) + max(map(len, prompts)) - min(map(len, prompts))
        results = generator.generate_batch(
            [[vocabulary[token_id] for token_id in prompt] for prompt in prompts],
            max_length=most,
            min_length=most,
            include_prompt_in_result=False,
            callback=is_enough,
        )
        return [len(result.sequences_ids[0]) for result in results]

    return generate


def by_openvino(model: str, dtype: str, threads: int) -> Generate:
    """OpenVINO GenAI's continuous batching; its cache has the dtype that it computes in, but for
    int8, where 8 bits are its own choice. Without products of bf16 it computes bf16 in fp32."""
    import numpy as np  # noqa: PLC0415
    import openvino as ov  # noqa: PLC0415
    import openvino_genai as genai  # noqa: PLC0415

    scheduler = genai.SchedulerConfig()
    scheduler.cache_size = 4  # GB
    scheduler.max_num_batched_tokens = 2048
    properties: dict[str, Any] = {"INFERENCE_NUM_THREADS": threads}
    has_bf16 = "BF16" in ov.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    precision = "bf16" if has_bf16 and dtype != "fp32" else "f32"
    properties["INFERENCE_PRECISION_HINT"] = precision
    if dtype != "int8":
        properties["KV_CACHE_PRECISION"] = precision
    pipeline = genai.ContinuousBatchingPipeline(model, scheduler, "CPU", properties)

    def generate(prompts: list[list[int]], counts: list[int]) -> list[int]:
        configs = []
        for count in counts:
            configs.append(genai.GenerationConfig())
            configs[-1].max_new_tokens = count
            configs[-1].ignore_eos = True
        inputs = [ov.Tensor(np.array([prompt], dtype=np.int64)) for prompt in prompts]
        results = pipeline.generate(inputs, configs)
        return [len(result.m_generation_ids[0]) for result in results]

    return generate


def by_vllm(model: str, dtype: str, threads: int) -> Generate:
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"  # so that its memory is this process's
    os.environ["VLLM_CPU_KVCACHE_SPACE"] = "4"  # GiB
    os.environ["VLLM_CPU_OMP_THREADS_BIND"] = f"0-{threads - 1}"
    os.environ["VLLM_NO_USAGE_STATS"] = "1"
    import vllm  # noqa: PLC0415

    name = {"fp32": "float32", "bf16": "bfloat16"}[dtype]
    engine = vllm.LLM(model, dtype=name, max_num_seqs=32, skip_tokenizer_init=True)

    def generate(prompts: list[list[int]], counts: list[int]) -> list[int]:
        params = [
            vllm.SamplingParams(temperature=0, max_tokens=n, ignore_eos=True, detokenize=False)
            for n in counts
        ]
        inputs = [{"prompt_token_ids": prompt} for prompt in prompts]
        results = engine.generate(inputs, params, use_tqdm=False)
        return [len(result.outputs[0].token_ids) for result in results]

    return generate


ENGINES = {
    "unshard": by_unshard,
    "transformers": by_transformers,
    "ctranslate2": by_ctranslate2,
    "openvino": by_openvino,
    "vllm": by_vllm,
}


def ceilings(threads: int) -> dict[str, float]:
    """The best of several runs: bytes per second that a sum reads from memory, operations per
    second of a matrix product in fp32 and bf16; fp32's where the processor has none of bf16."""
    import torch  # noqa: PLC0415

    torch.set_num_threads(threads)
    from unshard.kernels.pages import use_large_pages  # noqa: PLC0415
    from unshard.models.linear import onednn_multiplies  # noqa: PLC0415

    words = torch.empty(1 << 27, dtype=torch.int32)
    use_large_pages(words)
    words.fill_(1)
    found = {"read": words.nbytes / best(lambda: words.sum(dtype=torch.int32))}
    has_bf16 = onednn_multiplies(torch.empty(1, dtype=torch.bfloat16))
    for name, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        a, b = torch.randn(2, 2048, 2048).to(dtype if has_bf16 else torch.float32)
        found[name] = 2 * 2048**3 / best(lambda a=a, b=b: a @ b)  # type: ignore[misc]
    return found


def best(work: Callable[[], object], runs: int = 7) -> float:
    seconds = []
    for _ in range(runs):
        start = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def peak_bytes() -> int:
    status = Path("/proc/self/status").read_text()
    (line,) = (line for line in status.splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024


def main() -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    engine, model, dtype, threads = sys.argv[1:]
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: int(threads)])
    if engine == "ceilings":
        print(json.dumps(ceilings(int(threads))), file=answers, flush=True)
        return
    generate = ENGINES[engine](model, dtype, int(threads))
    for line in sys.stdin:
        request = json.loads(line)
        start = time.perf_counter()
        counts = generate(request["prompts"], request["counts"])
        answer = {"seconds": time.perf_counter() - start, "counts": counts}
        print(json.dumps(answer | {"peak_bytes": peak_bytes()}), file=answers, flush=True)


if __name__ == "__main__":
    main()
