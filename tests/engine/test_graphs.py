"""Recorded steps: their operations alone, replayed over other numbers, give what a step gives that
is worked out anew."""

from __future__ import annotations

import logging
import random
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from tests.engine.operation_recorder import OperationRecorder
from torch.utils._pytree import tree_leaves

from unshard.architectures.opt import OPTConfig
from unshard.cli.compute_options import ComputeOptions
from unshard.cli.ranks import ModelOptions
from unshard.engine import graphs, load
from unshard.engine.engine import Engine
from unshard.engine.graphs import MOST_SEQUENCES, CudaRecorder
from unshard.engine.paged_cache import PagedCache
from unshard.engine.request import GenerationRequest, SamplingParams
from unshard.engine.runner import Runner
from unshard.engine.step import StepLayout
from unshard.index.build import open_checkpoint
from unshard.kernels import dense, norm
from unshard.models import linear
from unshard.models.opt import OPTModel

NUM_BLOCKS = 96
NEEDS_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")


@pytest.fixture
def plain(monkeypatch):
    """A CPU's linears and norms as a GPU's are: PyTorch's, which are seen when recorded."""
    monkeypatch.setattr(dense, "most_rows", lambda _: 0)
    monkeypatch.setattr(linear, "onednn_multiplies", lambda _: False)
    monkeypatch.setattr(norm, "suits", lambda _: False)


@pytest.fixture
def make_model(config, weights, plain):
    def make_model(dtype=torch.float32, device="cpu", bits=None):
        model = OPTModel(config, dtype, device, matrix_bits=bits)
        for name, target in model.weight_targets().items():
            if isinstance(target, torch.Tensor):
                target.copy_(weights[name])
            else:
                target.put(0, weights[name])
        model.finalize()
        return model

    return make_model


class Twins:
    """Two runners of one model, one of which records; their caches are equal to begin with."""

    def __init__(self, model, record):
        caches = [PagedCache(model.config, NUM_BLOCKS, model.dtype, model.device) for _ in range(2)]
        generator = torch.Generator().manual_seed(4)
        for layers in zip(*(cache.layers for cache in caches), strict=True):
            # What was there before is large: whoever reads too far is seen.
            filled = torch.randn(layers[0].shape, generator=generator) * 50
            for layer in layers:
                layer.copy_(filled)
        self.cache, self.recorded_cache = caches
        self.runner, self.recorded = (
            Runner(model, caches[0]),
            Runner(model, caches[1], None, record),
        )
        self.runner._lone = None

    @torch.inference_mode()
    def step(self, tables, contexts, seed=0):
        """Logits of a step of single tokens without and with recording."""
        ids = random.Random(seed).choices(range(4, 400), k=len(contexts))
        layout = StepLayout(tuple(tables), (1,) * len(contexts), tuple(contexts))
        ones = [1] * len(contexts)
        return tuple(
            runner.logits(runner.compute(ids, layout, ones)).clone()
            for runner in (self.runner, self.recorded)
        )

    def same_blocks(self):
        """Whether the blocks of sequences hold the same."""
        pairs = zip(self.cache.layers, self.recorded_cache.layers, strict=True)
        return all(
            torch.allclose(ours[:NUM_BLOCKS], theirs[:NUM_BLOCKS], rtol=0, atol=1e-4)
            for ours, theirs in pairs
        )


assert_close = partial(torch.testing.assert_close, rtol=0, atol=1e-4)


def scattered(contexts, rng):
    """Blocks for each of `contexts`, anywhere but in block 0."""
    free = rng.sample(range(1, NUM_BLOCKS), NUM_BLOCKS - 1)
    return [[free.pop() for _ in range(-(-context // 16))] for context in contexts]


def test_replayed_steps_are_computed_steps(make_model):
    """Ragged sequences that grow over blocks and over shapes, join, leave and move."""
    recorder, rng = OperationRecorder(), random.Random(1)
    twins = Twins(make_model(), recorder)
    for seed in range(20):
        contexts = [rng.randint(2, 128) for _ in range(rng.randint(1, 9))]
        wanted, found = twins.step(scattered(contexts, rng), contexts, seed)
        assert_close(found, wanted)
    assert twins.same_blocks()
    assert len(recorder.replays) < sum(recorder.replays) == 20


def test_a_sequence_grows_over_shapes(make_model):
    recorder = OperationRecorder()
    twins = Twins(make_model(), recorder)
    table = random.Random(2).sample(range(1, NUM_BLOCKS), 8)
    for context in range(60, 129):
        wanted, found = twins.step([table], [context], context)
        assert_close(found, wanted)
    assert recorder.replays == [5, 64]  # up to 64 tokens, up to 128


def test_the_same_shape_is_recorded_once_whoever_is_in_it(make_model):
    recorder, rng = OperationRecorder(), random.Random(3)
    twins = Twins(make_model(), recorder)
    for count in (3, 4, 3, 4, 4):
        contexts = [rng.randint(2, 64) for _ in range(count)]
        wanted, found = twins.step(scattered(contexts, rng), contexts, count)
        assert found.shape == wanted.shape
        assert_close(found, wanted)
    assert recorder.replays == [5]


def test_rows_that_fill_up_touch_the_spare_block_alone(make_model):
    twins = Twins(make_model(), OperationRecorder())
    before = [layer.clone() for layer in twins.recorded_cache.layers]
    tables = [[7, 9], [0, 3], [5]]
    twins.step(tables, [20, 31, 3])
    written = {(9, 3), (3, 14), (5, 2), (NUM_BLOCKS, 0)}
    for old, new in zip(before, twins.recorded_cache.layers, strict=True):
        changed = (old != new).any(-1).any(1).any(1).nonzero()
        assert {tuple(place) for place in changed.tolist()} == written


def test_what_is_not_a_number_stays_where_it_is(make_model):
    """In the spare block, in block 0 and in any other that is not the sequence's."""
    twins = Twins(make_model(), OperationRecorder())
    tables = [[7, 9], [4, 3], [5]]
    for layer in twins.recorded_cache.layers:
        others = [block for block in range(NUM_BLOCKS + 1) if block not in {7, 9, 4, 3, 5}]
        layer[others] = torch.nan
    for _ in range(2):
        wanted, found = twins.step(tables, [20, 31, 3])
        assert_close(found, wanted)


@pytest.mark.parametrize(("dtype", "bits"), [(torch.bfloat16, None), (torch.bfloat16, 4)])
def test_other_dtypes(dtype, bits, make_model):
    twins = Twins(make_model(dtype, bits=bits), OperationRecorder())
    for seed in range(3):
        contexts = [40, 21 + seed, 70]
        rng = random.Random(seed)
        wanted, found = twins.step(scattered(contexts, rng), contexts, seed)
        torch.testing.assert_close(found, wanted, rtol=0.05, atol=0.05 * float(wanted.std()))


def test_other_steps_are_not_recorded(make_model):
    recorder = OperationRecorder()
    twins = Twins(make_model(), recorder)
    many = MOST_SEQUENCES + 1
    twins.step([[block] for block in range(many)], [9] * many)
    layout = StepLayout(((1,), (2,)), (1, 3), (5, 3))
    with torch.inference_mode():
        twins.recorded.compute([5, 6, 7, 8], layout, [1, 1])
    assert recorder.replays == []


def test_texts_do_not_notice(make_model, tokenizer, run):
    """Whole requests: prompts are read, sequences join, give their blocks back and end."""
    model, rng = make_model(), random.Random(6)
    requests = [
        GenerationRequest(
            str(number),
            tuple(rng.choices(range(4, 1000), k=rng.randint(2, 30))),
            SamplingParams(n := rng.randint(20, 60), min_tokens=n, temperature=0, logprobs=1),
        )
        for number in range(9)
    ]

    def tokens(record):
        cache = PagedCache(model.config, 9, model.dtype, model.device)
        runner = Runner(model, cache, None, record)
        runner._lone = None
        engine = Engine(runner, tokenizer, 5)
        found = run(engine, requests)
        assert engine.num_preempted > 0
        return {n: [t for o in outputs for t in o.tokens] for n, outputs in found.items()}

    recorder = OperationRecorder()
    wanted, found = tokens(None), tokens(recorder)
    assert sum(recorder.replays) > 40
    for name, texts in wanted.items():
        for ours, theirs in zip(found[name], texts, strict=True):
            assert ours.token_id == theirs.token_id
            assert ours.logprob == pytest.approx(theirs.logprob, abs=1e-4)


def test_a_step_that_cannot_be_recorded_is_told_once(make_model, caplog):
    def refuse(compute):
        calls.append(compute)
        raise RuntimeError("operation not permitted when stream is capturing")

    calls = []
    twins = Twins(make_model(), refuse)
    with caplog.at_level(logging.WARNING):
        for context in (5, 6, 70):
            wanted, found = twins.step([[1, 2, 3, 4, 5]], [context])
            assert_close(found, wanted)
    assert len(calls) == 1
    (record,) = caplog.records
    assert "not permitted when stream is capturing" in record.getMessage()


def test_a_step_that_fails_without_recording_fails(make_model):
    def broken(*_, **__):
        raise RuntimeError("out of memory")

    model = make_model()
    twins = Twins(model, OperationRecorder())
    model._layers[1] = broken
    with pytest.raises(RuntimeError, match="out of memory"):
        twins.step([[1]], [5])


@pytest.mark.parametrize(("dtype", "bits"), [(torch.float16, None), (torch.bfloat16, 4)])
def test_a_recorded_step_takes_nothing_from_the_host(dtype, bits):
    """On a device without values every operation of it is that device's."""
    config = OPTConfig(3, 256, 4, 1024, 520, 64, 256)
    recorder, meta = OperationRecorder(), torch.device("meta")
    with torch.inference_mode():
        model = OPTModel(config, dtype, meta, matrix_bits=bits)
        model.finalize()
        runner = Runner(model, PagedCache(config, 8, dtype, meta), None, recorder)
        hidden = runner.compute([1, 2, 3], StepLayout(((0,), (1,), (2,)), (1, 1, 1), (9, 12, 4)))
    assert (hidden.device, hidden.dtype, len(hidden)) == (meta, dtype, 3)
    (operations,) = recorder.operations
    used = {
        leaf.device
        for func, args, kwargs, result in operations
        for leaf in tree_leaves((args, kwargs, result))
        if isinstance(leaf, torch.Tensor)
    }
    assert used == {meta}


@pytest.mark.parametrize(
    ("device", "size", "fetches", "records"),
    [("cuda", 1, False, True), ("cpu", 1, False, False), ("cuda", 2, False, False),
     ("cuda", 1, True, False)],
)  # fmt: skip
def test_where_steps_are_recorded(device, size, fetches, records, monkeypatch):
    monkeypatch.setattr(graphs, "CudaRecorder", lambda device: f"recorder of {device}")
    group = SimpleNamespace(size=size)
    model = SimpleNamespace(device=torch.device(device), group=group, fetches_layers=fetches)
    assert graphs.record_for(model) == ("recorder of cuda" if records else None)


@pytest.mark.parametrize("enforce_eager", [False, True])
def test_an_engine_records_unless_it_is_told_not_to(enforce_eager, demo_model, monkeypatch):
    recorder = OperationRecorder()
    monkeypatch.setattr(load, "record_for", lambda model: recorder)
    compute = ComputeOptions("fp32", "cpu", 0, tp=None, enforce_eager=enforce_eager)
    options = ModelOptions(str(demo_model), compute, 2)
    told = options.of(open_checkpoint(demo_model))
    engine = load.load_engine(told.checkpoint, enforce_eager=told.enforce_eager)
    assert (engine._runner._graphs is None) is enforce_eager


@NEEDS_GPU
@pytest.mark.parametrize(("dtype", "bits"), [(torch.float32, None), (torch.bfloat16, 4)])
def test_on_a_gpu(dtype, bits, make_model, caplog):
    device = torch.device("cuda")
    twins, rng = Twins(make_model(dtype, device, bits), CudaRecorder(device)), random.Random(7)
    most = 1e-3 if dtype is torch.float32 else 0.1
    for seed in range(30):
        contexts = [rng.randint(2, 128) for _ in range(rng.randint(1, 9))]
        wanted, found = twins.step(scattered(contexts, rng), contexts, seed)
        torch.testing.assert_close(found, wanted, rtol=most, atol=most * float(wanted.std()))
    assert not caplog.records
    assert len(twins.recorded._graphs._steps) > 3
