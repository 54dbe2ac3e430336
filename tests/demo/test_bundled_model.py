"""The bundled model, from its raw files, against independent computations of the same weights."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer, OPTForCausalLM

from unshard.engine.engine import Engine
from unshard.engine.load import load_engine
from unshard.engine.request import GenerationRequest, SamplingParams
from unshard.execute.run import run_plan
from unshard.index.build import open_checkpoint
from unshard.manifest import read_manifest
from unshard.plan.metaseq_target import plan_metaseq
from unshard.plan.safetensors_target import plan_safetensors
from unshard.verify import verify

DEMO_MODEL = Path(__file__).parents[2] / "src/unshard/demo_model"
MAX_BYTES = 8_000_000


def continuations(
    engine: Engine, prompts: list[tuple[int, ...]], max_tokens: int
) -> list[list[int]]:
    """Greedy token ids of every prompt, generated together."""
    params = SamplingParams(max_tokens=max_tokens, temperature=0)
    found: list[list[int]] = [[] for _ in prompts]
    for number, prompt in enumerate(prompts):
        engine.add(GenerationRequest(str(number), prompt, params))
    while engine.has_work:
        for output in engine.step():
            assert output.error is None
            found[int(output.request_id)] += [token.token_id for token in output.tokens]
    return found


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exported")
    run_plan(plan_safetensors(open_checkpoint(DEMO_MODEL)), folder)
    return folder


@pytest.fixture(scope="module")
def engine() -> Engine:
    return load_engine(open_checkpoint(DEMO_MODEL))


@pytest.fixture(scope="module")
def peer(exported: Path) -> OPTForCausalLM:
    model, info = OPTForCausalLM.from_pretrained(
        exported, dtype=torch.float32, output_loading_info=True
    )
    assert not any(info[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    return model.eval()


def test_it_ships_as_meta_sends_it() -> None:
    checkpoint = open_checkpoint(DEMO_MODEL)
    assert checkpoint.layout.kind == "metaseq-raw"
    assert checkpoint.layout.tp_size >= 2
    assert checkpoint.layout.fsdp_size >= 4
    assert checkpoint.index.ledger.padding_bytes > 0
    manifest = read_manifest(DEMO_MODEL / "md5sum_shards.csv")
    assert set(manifest) == {path.name for path in checkpoint.layout.files}
    assert verify(DEMO_MODEL, manifest).is_right
    assert sum(path.stat().st_size for path in DEMO_MODEL.iterdir()) <= MAX_BYTES


def test_logits_of_the_raw_files_are_those_of_transformers(
    engine: Engine, peer: OPTForCausalLM
) -> None:
    """max |delta| < 1e-4 over 4 x 64 random tokens, by way of every token's logprobs."""
    generator = torch.Generator().manual_seed(0)
    rows = torch.randint(4, engine.config.vocab_size, (4, 64), generator=generator)
    rows[:, 0] = 2
    with torch.inference_mode():
        theirs = torch.log_softmax(peer(rows).logits, -1)
    everything = engine.config.vocab_size
    params = SamplingParams(max_tokens=0, logprobs=everything, score_prompt=True)
    for number, row in enumerate(rows.tolist()):
        engine.add(GenerationRequest(str(number), tuple(row), params))
    checked = 0
    while engine.has_work:
        for output in engine.step():
            assert output.prompt_tokens is not None
            for position, token in enumerate(output.prompt_tokens[1:]):
                ours = torch.empty(everything)
                ids, logprobs = zip(*token.alternatives, strict=True)
                ours[torch.tensor(ids)] = torch.tensor(logprobs)
                expected = theirs[int(output.request_id), position]
                assert (ours - expected).abs().max() < 1e-4
                checked += 1
    assert checked == 4 * 63


def test_fifty_greedy_tokens_are_those_of_transformers(
    engine: Engine, peer: OPTForCausalLM
) -> None:
    prompts = [engine.tokenizer.prompt_ids(text) for text in ("ROMEO.\n", "To be, or not", "The ")]
    ours = continuations(engine, prompts, 50)
    for prompt, found in zip(prompts, ours, strict=True):
        with torch.inference_mode():
            whole = peer.generate(
                torch.tensor([prompt]), max_new_tokens=50, do_sample=False, min_new_tokens=50
            )
        assert found == whole[0, len(prompt) :].tolist()


def test_every_layout_generates_the_same(engine: Engine, exported: Path, tmp_path: Path) -> None:
    run_plan(plan_metaseq(open_checkpoint(DEMO_MODEL), 1), tmp_path / "one")
    prompts = [engine.tokenizer.prompt_ids("HAMLET.\nWhat say you")]
    expected = continuations(engine, prompts, 30)
    for folder in (tmp_path / "one", exported):
        assert continuations(load_engine(open_checkpoint(folder)), prompts, 30) == expected


def test_the_exported_tokenizer_is_the_same(engine: Engine, exported: Path) -> None:
    theirs = AutoTokenizer.from_pretrained(exported)
    for text in ("To be, or not to be", "  spaces\n\nlines ", "café — ‘quotes’", ""):
        assert tuple(theirs(text).input_ids) == engine.tokenizer.prompt_ids(text)
