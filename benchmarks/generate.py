"""Tokens per second of the engine against transformers' `generate`: same weights, same dtype,
same prompts, one process, interleaved; medians. Ratios are what to carry over from a shared
machine, not rates.

    python benchmarks/generate.py [--shape demo|125m | --src CHECKPOINT] [--dtype fp32|bf16]

Prints a table, then one line of JSON.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
import transformers

from unshard.architectures.opt import OPTConfig
from unshard.engine.engine import Engine
from unshard.engine.paged_cache import PagedCache, default_cache_dtype, num_blocks_for_batch
from unshard.engine.request import GenerationRequest, SamplingParams
from unshard.engine.runner import Runner
from unshard.engine.tokenizer import Tokenizer
from unshard.execute.model_sink import fill_tensors, put_rows
from unshard.index.build import open_checkpoint
from unshard.models.opt import OPTModel

SHAPES = {
    "demo": OPTConfig(4, 256, 8, 1024, 1536, 512, 256),
    "125m": OPTConfig(12, 768, 12, 3072, 50272, 2048, 768),
}
Peer = Any
"""transformers' model: its own types do not let it be called."""
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


@dataclass(frozen=True, slots=True)
class Case:
    name: str
    batch: int
    prompt: int
    tokens: int


CASES = (
    Case("single stream", batch=1, prompt=16, tokens=64),
    Case("batch 8", batch=8, prompt=16, tokens=64),
    Case("first token, prompt 256", batch=1, prompt=256, tokens=1),
)


def peer_model(config: OPTConfig, dtype: torch.dtype) -> Peer:
    """transformers' model with random weights."""
    torch.manual_seed(0)
    shape = transformers.OPTConfig(
        num_hidden_layers=config.num_layers,
        hidden_size=config.hidden_size,
        num_attention_heads=config.num_heads,
        ffn_dim=config.ffn_dim,
        vocab_size=config.vocab_size,
        max_position_embeddings=config.max_positions,
        word_embed_proj_dim=config.embedding_size,
        do_layer_norm_before=config.pre_norm,
        tie_word_embeddings=config.tied_embeddings,
    )
    peer: Peer = transformers.OPTForCausalLM(shape)
    return peer.to(dtype).eval()


def our_model(config: OPTConfig, dtype: torch.dtype) -> tuple[OPTModel, dict[str, str]]:
    """Our model, unfilled, and transformers' name for each of its tensors."""
    model = OPTModel(config, dtype)
    renamed = {
        "decoder.layer_norm": "decoder.final_layer_norm",
        "project_in_dim": "project_in",
        "project_out_dim": "project_out",
    }
    names = {}
    for name in model.weight_targets():
        theirs = name
        for old, new in renamed.items():
            theirs = theirs.replace(old, new)
        names[name] = f"model.{theirs}"
    return model, names


def prompts(case: Case, vocab_size: int) -> Iterator[list[int]]:
    generator = torch.Generator().manual_seed(1)
    for _ in range(case.batch):
        ids = torch.randint(4, vocab_size, (case.prompt - 1,), generator=generator)
        yield [2, *ids.tolist()]


def run_ours(engine: Engine, case: Case) -> list[list[int]]:
    """Generated ids of each prompt."""
    params = SamplingParams(max_tokens=case.tokens, temperature=0)
    rows: dict[str, list[int]] = {}
    for number, ids in enumerate(prompts(case, engine.config.vocab_size)):
        rows[str(number)] = []
        engine.add(GenerationRequest(str(number), tuple(ids), params))
    while engine.has_work:
        for output in engine.step():
            rows[output.request_id] += [token.token_id for token in output.tokens]
    return list(rows.values())


def run_theirs(peer: Peer, case: Case) -> list[list[int]]:
    """Generated ids of each prompt."""
    ids = torch.tensor(list(prompts(case, peer.config.vocab_size)))
    with torch.inference_mode():
        out = peer.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=case.tokens,
            do_sample=False,
            pad_token_id=1,
        )
    rows = out[:, case.prompt :].tolist()
    # What follows `</s>` is padding of the batch.
    return [row[: row.index(2) + 1] if 2 in row else row for row in rows]


def rate(work: Callable[[], list[list[int]]]) -> float:
    """Generated tokens per second."""
    start = time.perf_counter()
    rows = work()
    return sum(map(len, rows)) / (time.perf_counter() - start)


def compare(engine: Engine, peer: Peer, case: Case, runs: int) -> dict[str, str | float]:
    """Medians of `runs` interleaved runs after one to warm up, and how many texts agree."""
    pairs = list(zip(run_ours(engine, case), run_theirs(peer, case), strict=True))
    rates = [
        (rate(lambda: run_ours(engine, case)), rate(lambda: run_theirs(peer, case)))
        for _ in range(runs)
    ]
    return {
        "case": case.name,
        "ours_tokens_per_s": statistics.median(ours for ours, _ in rates),
        "transformers_tokens_per_s": statistics.median(theirs for _, theirs in rates),
        "ratio": statistics.median(ours / theirs for ours, theirs in rates),
        "same": f"{sum(ours == theirs for ours, theirs in pairs)}/{len(pairs)}",
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shape", choices=SHAPES, default="demo", help="random weights")
    parser.add_argument("--src", help="a checkpoint in any layout, in place of --shape")
    parser.add_argument("--dtype", choices=DTYPES, default="fp32")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--runs", type=int, default=5)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    checkpoint = open_checkpoint(arguments.src) if arguments.src else None
    config = checkpoint.config if checkpoint else SHAPES[arguments.shape]
    peer = peer_model(config, DTYPES[arguments.dtype])
    model, names = our_model(config, DTYPES[arguments.dtype])
    state = peer.state_dict()
    if checkpoint:
        fill_tensors(checkpoint.index, {name: state[theirs] for name, theirs in names.items()})
    for name, target in model.weight_targets().items():
        put_rows(target, 0, state[names[name]])
    model.finalize()
    max_batch = max(case.batch for case in CASES)
    cache_dtype = default_cache_dtype(model.dtype, model.device)
    num_blocks = num_blocks_for_batch(config, max_batch, cache_dtype, model.device)
    cache = PagedCache(config, num_blocks, cache_dtype, model.device)
    engine = Engine(Runner(model, cache), Tokenizer({}, []), max_batch)
    rows = [compare(engine, peer, case, arguments.runs) for case in CASES]
    print(f"{'case':<26}{'ours tok/s':>12}{'transformers':>14}{'ratio':>8}  same")
    for row in rows:
        rates = f"{row['ours_tokens_per_s']:>12.1f}{row['transformers_tokens_per_s']:>14.1f}"
        print(f"{row['case']:<26}{rates}{row['ratio']:>8.2f}  {row['same']}")
    print(json.dumps(vars(arguments) | {"rows": rows}))


if __name__ == "__main__":
    main()
