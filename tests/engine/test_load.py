"""From files to text: the shipped model says what its trainer's own code said."""

import json
import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
import torch

from unshard.architectures.opt import OPTConfig
from unshard.engine import paged_cache
from unshard.engine.load import load_engine
from unshard.engine.request import GenerationRequest, SamplingParams
from unshard.errors import UsageError
from unshard.index.build import open_checkpoint
from unshard.index.companions import find_companions
from unshard.library.precisions import BF16, FP16, FP32, INT4, INT8
from unshard.progress import Silent


@pytest.fixture(scope="session")
def checkpoint(demo_model):
    return open_checkpoint(demo_model)


@pytest.fixture(scope="session")
def golden(demo_model):
    return json.loads((demo_model / "golden.json").read_text())["cases"]


def load(checkpoint, **changes):
    options = {"precision": FP32, "device": "cpu", "max_batch": 4, "progress": Silent()}
    return load_engine(checkpoint, **options | changes)


def test_the_shipped_model_continues_as_its_trainer_did(checkpoint, golden, run):
    engine = load(checkpoint)
    requests = [
        GenerationRequest(
            str(number),
            engine.tokenizer.prompt_ids(case["prompt"]),
            SamplingParams(len(case["greedy_ids"]), temperature=0, logprobs=1),
        )
        for number, case in enumerate(golden)
    ]
    outputs = run(engine, requests)
    for request, case in zip(requests, golden, strict=True):
        tokens = [token for output in outputs[request.request_id] for token in output.tokens]
        text = "".join(output.text for output in outputs[request.request_id])
        assert list(request.prompt_ids) == case["prompt_ids"]
        assert [token.token_id for token in tokens] == case["greedy_ids"]
        assert text == case["greedy_text"]
        assert tokens[0].logprob == pytest.approx(case["first_logprob"], abs=1e-3)


def test_other_precisions_score_near_fp32(checkpoint, golden, run):
    ids = tuple(golden[-1]["prompt_ids"] + golden[-1]["greedy_ids"])
    request = GenerationRequest("a", ids, SamplingParams(0, score_prompt=True))
    sums = []
    for precision in (FP32, BF16, INT8, INT4):
        (output,) = run(load(checkpoint, precision=precision), [request])["a"]
        sums.append(math.fsum(token.logprob for token in output.prompt_tokens[1:]) / len(ids))
    assert sums[1:3] == pytest.approx([sums[0]] * 2, abs=0.02)
    assert sums[3] == pytest.approx(sums[0], abs=0.2)
    assert len(set(sums)) == 4


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"precision": FP16}, "fp16 does not compute on a CPU"),
        ({"device": "abacus"}, "unknown device 'abacus'"),
        ({"device": "cuda:99"}, "no device 'cuda:99'"),
        ({"device": "meta"}, "does not run on device 'meta'"),
    ],
)
def test_what_cannot_compute_is_said_before_a_weight_is_read(checkpoint, changes, message):
    with pytest.raises(UsageError, match=message) as caught:
        load(checkpoint, **changes)
    assert caught.value.hint


def test_a_tokenizer_of_a_larger_model_is_refused(checkpoint, tmp_path):
    size = checkpoint.config.vocab_size + 1
    vocab = {f"madeupword{i:04}": i for i in range(size)}
    (tmp_path / "gpt2-vocab.json").write_text(json.dumps(vocab))
    (tmp_path / "gpt2-merges.txt").write_text("#version: 0.2\n")
    other = replace(checkpoint, companions=find_companions(tmp_path))
    with pytest.raises(UsageError, match="vocabulary of"):
        load(other)


@pytest.mark.parametrize(
    ("free_blocks", "wanted"), [(10**6, 5 * 128), (4 * 300, 300), (4 * 20, 128), (0, 128)]
)
def test_the_cache_takes_a_quarter_of_the_free_memory(monkeypatch, free_blocks, wanted):
    config = OPTConfig(2, 64, 4, 128, 1000, 2040, 64)
    cpu = torch.device("cpu")
    monkeypatch.setattr(paged_cache, "free_bytes", lambda _: free_blocks * 2 * 2 * 64 * 16 * 4)
    assert paged_cache.num_blocks_for_batch(config, 5, torch.float32, cpu) == wanted
    monkeypatch.undo()
    assert paged_cache.free_bytes(cpu) > 1 << 20


def test_loading_leaves_torch_its_threads(checkpoint):
    """Those of the engine's own thread too, which begins later."""
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        load(checkpoint)
        with ThreadPoolExecutor(1) as later:
            assert later.submit(torch.get_num_threads).result() == torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


def test_an_activation_that_is_not_computed_is_refused(checkpoint):
    other = replace(checkpoint, config=replace(checkpoint.config, activation="gelu"))
    with pytest.raises(UsageError, match="gelu"):
        load(other)


def test_a_checkpoint_without_a_tokenizer_is_refused(checkpoint):
    with pytest.raises(UsageError, match="has no tokenizer") as caught:
        load(replace(checkpoint, companions={}))
    assert "gpt2-vocab.json" in caught.value.hint
