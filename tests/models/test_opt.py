"""The law of the model: transformers' OPTForCausalLM with the same weights says the same."""

import pytest
import torch
from transformers import OPTConfig as HFConfig
from transformers import OPTForCausalLM

from unshard.architectures.opt import OPTConfig
from unshard.errors import UsageError
from unshard.kernels import int4
from unshard.kernels.library import kernels
from unshard.library.precisions import int4_group
from unshard.models.attention import causal_attention
from unshard.models.opt import OPTModel

PRE_NORM = OPTConfig(3, 64, 4, 160, 200, 96, 64)
LIKE_350M = OPTConfig(3, 64, 4, 160, 200, 96, 32, pre_norm=False)
UNTIED = OPTConfig(2, 64, 8, 96, 120, 96, 64, tied_embeddings=False)
VARIANTS = [
    pytest.param(PRE_NORM, id="pre-norm"),
    pytest.param(LIKE_350M, id="350m"),
    pytest.param(UNTIED, id="untied"),
]


def hugging_face_name(name: str) -> str:
    if name == "decoder.output_projection.weight":
        return "lm_head.weight"
    rest = name.removeprefix("decoder.")
    rest = rest.replace("project_in_dim", "project_in").replace("project_out_dim", "project_out")
    if rest.startswith("layer_norm."):
        rest = f"final_{rest}"
    return f"model.decoder.{rest}"


def random_peer(config: OPTConfig) -> OPTForCausalLM:
    torch.manual_seed(0)
    peer = OPTForCausalLM(
        HFConfig(
            num_hidden_layers=config.num_layers,
            hidden_size=config.hidden_size,
            num_attention_heads=config.num_heads,
            ffn_dim=config.ffn_dim,
            vocab_size=config.vocab_size,
            max_position_embeddings=config.max_positions,
            word_embed_proj_dim=config.embedding_size,
            do_layer_norm_before=config.pre_norm,
            tie_word_embeddings=config.tied_embeddings,
            dropout=0.0,
        )
    ).eval()
    for tensor in peer.state_dict().values():
        tensor.copy_(torch.randn(tensor.shape) * 0.15)
    return peer


def filled(
    config: OPTConfig,
    peer: OPTForCausalLM,
    dtype: torch.dtype,
    matrix_bits: int | None = None,
    table_dtype: torch.dtype | None = None,
) -> OPTModel:
    model = OPTModel(config, dtype, matrix_bits=matrix_bits, table_dtype=table_dtype)
    state = peer.state_dict()
    for name, target in model.weight_targets().items():
        values = state[hugging_face_name(name)]
        if isinstance(target, torch.Tensor):
            target.copy_(values)
        else:
            target.put(0, values)
    model.finalize()
    return model


class CausalAttention:
    """Whole sequences one after another, without a cache; `lengths` are their numbers of rows."""

    def __init__(self, num_heads: int, lengths: list[int]) -> None:
        self._num_heads = num_heads
        self._lengths = lengths

    def __call__(self, layer: int, kvq: torch.Tensor) -> torch.Tensor:
        parts = kvq.split_with_sizes(self._lengths)
        return torch.cat([causal_attention(rows, self._num_heads) for rows in parts])


def logits(model: OPTModel, ids: torch.Tensor) -> torch.Tensor:
    rows, length = ids.shape
    positions = torch.arange(length).repeat(rows)
    attention = CausalAttention(model.config.num_heads, [length] * rows)
    with torch.inference_mode():
        hidden = model.hidden_states(ids.flatten(), positions, attention)
        return model.logits(hidden).view(rows, length, -1)


@pytest.mark.parametrize("config", VARIANTS)
def test_logits_equal_those_of_transformers(config):
    peer = random_peer(config)
    ids = torch.randint(0, config.vocab_size, (4, 64))
    ours = logits(filled(config, peer, torch.float32), ids)
    with torch.inference_mode():
        theirs = peer(ids).logits
    assert theirs.std() > 0.1
    assert (ours - theirs).abs().max() < 1e-4


@pytest.mark.parametrize("config", VARIANTS)
@pytest.mark.parametrize("rows", [[39], [2, 3, 17, 39]])
def test_kept_rows_are_those_of_all(config, rows):
    model = filled(config, random_peer(config), torch.float32)
    ids, positions = torch.randint(0, config.vocab_size, (40,)), torch.arange(40)
    kept = torch.tensor(rows)
    attention = CausalAttention(config.num_heads, [40])
    with torch.inference_mode():
        every = model.hidden_states(ids, positions, attention)
        some = model.hidden_states(ids, positions, attention, kept)
    torch.testing.assert_close(some, every[kept], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("config", VARIANTS)
def test_bf16_is_near_fp32(config):
    peer = random_peer(config)
    ids = torch.randint(0, config.vocab_size, (2, 32))
    exact = logits(filled(config, peer, torch.float32), ids)
    ours = logits(filled(config, peer, torch.bfloat16), ids)
    assert ours.dtype == torch.float32
    # bf16 keeps 8 bits: 2**-8 of relative error an operation, over some tens of them.
    assert (ours - exact).std() < 0.05 * exact.std()


@pytest.mark.parametrize("config", VARIANTS)
def test_int8_is_near_fp32(config):
    peer = random_peer(config)
    ids = torch.randint(0, config.vocab_size, (2, 32))
    exact = logits(filled(config, peer, torch.float32), ids)
    ours = logits(filled(config, peer, torch.float32, 8), ids)
    assert not torch.equal(ours, exact)
    assert (ours - exact).std() < 0.03 * exact.std()


@pytest.mark.parametrize("config", VARIANTS)
@pytest.mark.parametrize("stored", [torch.float16, torch.bfloat16])
def test_a_table_in_16_bits_is_looked_up_exactly(config, stored):
    peer = random_peer(config).to(stored)
    ids = torch.randint(0, config.vocab_size, (2, 32))
    widened = filled(config, peer, torch.float32, 8)
    as_stored = filled(config, peer, torch.float32, 8, stored)
    assert torch.equal(logits(as_stored, ids), logits(widened, ids))
    saved = 2 * config.vocab_size * config.embedding_size
    assert num_bytes(as_stored) == num_bytes(widened) - saved


@pytest.mark.parametrize("config", [PRE_NORM, LIKE_350M])
def test_a_table_that_is_multiplied_with_has_the_models_dtype(config):
    model = OPTModel(config, torch.float32, table_dtype=torch.bfloat16)
    assert {tensor.dtype for tensor in model.tensors()} == {torch.float32}


def num_bytes(model: OPTModel) -> int:
    return sum(tensor.nbytes for tensor in model.tensors())


@pytest.mark.parametrize("config", VARIANTS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_int4_is_the_model_of_its_values(config, dtype):
    """Also where no kernel multiplies them, as with rows in fp32."""
    peer = random_peer(config)
    ids = torch.randint(0, config.vocab_size, (2, 32))
    ours = logits(filled(config, peer, dtype, 4), ids)
    exact = logits(filled(config, peer, torch.float32), ids)
    for name, tensor in peer.state_dict().items():
        if tensor.dim() == 2 and "embed_" not in name and name != "lm_head.weight":
            tensor.copy_(in_four_bits(tensor))
    with torch.inference_mode():
        expected = peer(ids).logits
    assert (ours - expected).std() < (0.05 if dtype is torch.bfloat16 else 1e-4) * expected.std()
    assert 0.02 * exact.std() < (ours - exact).std() < 0.5 * exact.std()


def in_four_bits(values):
    return int4.rounded_to_int4(values, int4_group(values.shape[1]))


@pytest.mark.parametrize("config", VARIANTS)
def test_int8_says_the_same_without_kernels(config, switch):
    peer = random_peer(config)
    ids = torch.randint(0, config.vocab_size, (2, 32))
    native = logits(filled(config, peer, torch.float32, 8), ids)
    switch("off")
    plain = logits(filled(config, peer, torch.float32, 8), ids)
    # 8-bit activations are what differs.
    assert (native - plain).std() < 0.02 * plain.std()


@pytest.mark.skipif(kernels() is None, reason="the kernels are not compiled here: make kernels")
def test_in_int8_a_token_does_not_notice_its_batch():
    model = filled(PRE_NORM, random_peer(PRE_NORM), torch.float32, 8)
    hidden = torch.randn(9, PRE_NORM.hidden_size)
    assert torch.equal(model.logits(hidden)[4], model.logits(hidden[4:5])[0])


@pytest.mark.parametrize("config", VARIANTS)
def test_targets_name_every_weight_once(config):
    peer = random_peer(config)
    targets = OPTModel(config, torch.float32).weight_targets()
    names = {hugging_face_name(name) for name in targets}
    tied = {"lm_head.weight"} if config.tied_embeddings else set()
    assert names == set(peer.state_dict()) - tied
    assert sum(t.numel() for t in targets.values()) == sum(p.numel() for p in peer.parameters())
    for name, target in targets.items():
        assert target.shape == peer.state_dict()[hugging_face_name(name)].shape


def test_a_final_model_cannot_be_filled():
    model = filled(PRE_NORM, random_peer(PRE_NORM), torch.float32)
    model.finalize()
    with pytest.raises(UsageError, match="filled again"):
        model.weight_targets()
