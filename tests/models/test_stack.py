"""The law of the stack: bit for bit what the layers compute one by one, and what they write."""

from dataclasses import dataclass

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from unshard.architectures.opt import OPTConfig
from unshard.kernels.attention import BLOCK_ROWS, PagedAttention
from unshard.kernels.library import kernels
from unshard.models.opt import OPTModel
from unshard.parallel.group import Alone

HEADS, HEAD_DIM, LAYERS, VOCAB = 3, 16, 3, 64
KINDS = [
    (torch.float32, None),
    (torch.bfloat16, None),
    (torch.bfloat16, 8),
    (torch.float32, 8),
]
MOST_BLOCKS = 3


@pytest.fixture(autouse=True)
def needs_kernels():
    if kernels() is None:
        pytest.skip("the kernels are not compiled here: make kernels")


def make_model(
    dtype,
    bits,
    *,
    pre_norm=True,
    embedding=HEADS * HEAD_DIM,
    mapped=(),
    table=None,
    table_scale=1.0,
):
    """Of random weights; of the layers `mapped`, where they lay before, K, V and Q apart."""
    config = OPTConfig(
        LAYERS, HEADS * HEAD_DIM, HEADS, 200, VOCAB, 128, embedding, pre_norm=pre_norm
    )
    generator = torch.Generator().manual_seed(2)
    model = OPTModel(config, dtype, matrix_bits=bits, table_dtype=table)
    values = {}
    for name, target in model.weight_targets().items():
        values[name] = torch.randn(target.shape, generator=generator) * 0.3
    values["decoder.embed_tokens.weight"] *= table_scale
    model.map_weights(
        {
            name: value.to(dtype)
            for name, value in values.items()
            if value.dim() == 2 and any(f".layers.{layer}." in name for layer in mapped)
        }
    )
    for name, target in model.weight_targets().items():
        if isinstance(target, Tensor):
            target.copy_(values[name])
        else:
            target.put(0, values[name])
    model.finalize()
    return model


@dataclass
class Step:
    """New tokens of sequences of the given (context length, new tokens)."""

    shapes: list[tuple[int, int]]

    def attention(self, cache_dtype):
        shape = (len(self.shapes) * MOST_BLOCKS, 2, HEADS, BLOCK_ROWS, HEAD_DIM)
        generator = torch.Generator().manual_seed(5)
        caches = [torch.randn(shape, generator=generator).to(cache_dtype) for _ in range(LAYERS)]
        tables = torch.arange(shape[0]).view(-1, MOST_BLOCKS).int()
        starts = torch.tensor([0, *(count for _, count in self.shapes)]).cumsum(0).int()
        ends = torch.tensor([length for length, _ in self.shapes]).int()
        return PagedAttention(caches, tables, starts, ends)

    def hidden_states(self, model, cache_dtype, kept=None):
        """What `model` makes of it, and the caches afterwards."""
        attention = self.attention(cache_dtype)
        places = [place for end, n in self.shapes for place in range(end - n, end)]
        ids = torch.arange(len(places)) % VOCAB
        return model.hidden_states(ids, torch.tensor(places), attention, kept), attention.caches


def assert_same(model, step, cache_dtype, kept=None):
    assert model._stack is not None
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(model, "_stack", None)
        expected, expected_caches = step.hidden_states(model, cache_dtype, kept)
    found, caches = step.hidden_states(model, cache_dtype, kept)
    assert found.isfinite().all()
    assert torch.equal(found, expected)
    for cache, other in zip(caches, expected_caches, strict=True):
        assert torch.equal(cache, other)


@pytest.fixture(scope="module")
def models():
    return {kind: make_model(*kind) for kind in KINDS}


shapes = st.lists(
    st.tuples(st.integers(1, MOST_BLOCKS * BLOCK_ROWS), st.sampled_from([1, 1, 1, 2, 5])),
    min_size=1,
    max_size=6,
).map(lambda shapes: [(length, min(length, new)) for length, new in shapes])


@torch.inference_mode()
@settings(
    max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(kind=st.sampled_from(KINDS), shapes=shapes, threads=st.sampled_from([1, 2, 3]))
def test_it_computes_what_the_layers_compute(models, kind, shapes, threads):
    torch.set_num_threads(threads)
    try:
        for cache_dtype in {torch.bfloat16, kind[0]}:
            assert_same(models[kind], Step(shapes), cache_dtype)
    finally:
        torch.set_num_threads(1)


@torch.inference_mode()
@pytest.mark.parametrize("kind", KINDS)
def test_more_threads_than_any_part_has_tasks(models, kind):
    """And than cores: who waits lets the others run, and who comes late finds all done."""
    step, model = Step([(20, 1), (7, 2)]), models[kind]
    alone, alone_caches = step.hidden_states(model, kind[0])
    torch.set_num_threads(100)
    try:
        found, caches = step.hidden_states(model, kind[0])
    finally:
        torch.set_num_threads(1)
    assert torch.equal(found, alone)
    assert all(map(torch.equal, caches, alone_caches))


@torch.inference_mode()
@pytest.mark.parametrize(("dtype", "bits"), KINDS)
def test_norms_behind_the_sums(dtype, bits):
    """As OPT-350M's, whose embeddings are narrower too."""
    model = make_model(dtype, bits, pre_norm=False, embedding=32)
    assert_same(model, Step([(20, 1), (7, 2)]), dtype)


@torch.inference_mode()
@pytest.mark.parametrize("table", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("scale", [1, 1e-6, 1e4])
def test_a_table_of_16_bits(table, scale):
    """Of fp16 subnormal numbers, too, and of the largest."""
    model = make_model(torch.float32, 8, table=table, table_scale=scale)
    assert model._embed_tokens.dtype is table
    assert model._stack.embeds
    assert_same(model, Step([(20, 1), (7, 2)]), torch.float32)


@torch.inference_mode()
@pytest.mark.parametrize("kind", KINDS)
def test_tokens_and_positions_that_there_are_not(models, kind):
    attention = Step([(1, 1)]).attention(kind[0])
    if models[kind]._stack is None:
        pytest.skip("this level multiplies no such rows")
    assert models[kind]._stack.embeds
    for token, place in ((VOCAB, 0), (-1, 0), (0, 128), (0, -1)):
        ids, positions = torch.tensor([token]), torch.tensor([place])
        with pytest.raises(IndexError):
            models[kind].hidden_states(ids, positions, attention)
    for ids, positions in (([0.0], [0]), ([0], [0, 1])):
        with pytest.raises(ValueError, match="int64"):
            models[kind].hidden_states(torch.tensor(ids), torch.tensor(positions), attention)


@torch.inference_mode()
def test_weights_that_lie_in_files():
    model = make_model(torch.float32, None, mapped=range(LAYERS))
    assert len(model._layers[0].kvq_proj.linears) == 3
    assert_same(model, Step([(20, 1), (7, 2)]), torch.float32)


@torch.inference_mode()
@pytest.mark.parametrize("layers", [{0}, {1, 2}, {2}])
def test_weights_some_of_which_lie_in_files(layers):
    """K, V and Q are apart in these layers, and one matrix in the others."""
    model = make_model(torch.float32, None, mapped=layers)
    parts = [getattr(layer.kvq_proj, "linears", ()) for layer in model._layers]
    assert {number for number, linears in enumerate(parts) if linears} == layers
    assert_same(model, Step([(20, 1), (7, 2)]), torch.float32)


@torch.inference_mode()
def test_only_the_rows_that_are_asked_for(models):
    model = models[torch.float32, None]
    assert_same(model, Step([(20, 1), (7, 3)]), torch.float32, torch.tensor([0, 3]))


@torch.inference_mode()
def test_many_rows_go_layer_by_layer(models, monkeypatch):
    model = models[torch.float32, None]
    monkeypatch.setattr(type(model._stack), "_run", lambda *_: pytest.fail("too many rows"))
    many = Step([(MOST_BLOCKS * BLOCK_ROWS, 12)] * 6)
    assert many.hidden_states(model, torch.float32)[0].isfinite().all()


def test_no_stack_of_what_the_kernels_do_not_compute():
    class Half(Alone):
        size = 2

    config = OPTConfig(LAYERS, HEADS * HEAD_DIM * 2, HEADS * 2, 200, VOCAB, 128, 96)
    for model in (
        OPTModel(config, torch.float32, group=Half()),
        OPTModel(config, torch.float16),
        OPTModel(config, torch.bfloat16, num_away=1),
        OPTModel(config, torch.bfloat16, matrix_bits=4),
    ):
        model.finalize()
        assert model._stack is None
