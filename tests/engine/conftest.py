"""A small random model and the demo's tokenizer: engines to run laws on."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import unshard
from unshard.architectures.opt import OPTConfig
from unshard.engine.block_table import num_blocks_for
from unshard.engine.engine import Engine
from unshard.engine.paged_cache import PagedCache
from unshard.engine.request import GenerationOutput
from unshard.engine.runner import Runner
from unshard.engine.tokenizer import Tokenizer
from unshard.models.opt import OPTModel

DEMO_MODEL = Path(unshard.__file__).parent / "demo_model"


@pytest.fixture(scope="session", autouse=True)
def _one_thread():
    # Matrices this small gain nothing from threads, and lose much where cores are shared.
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def demo_model() -> Path:
    return DEMO_MODEL


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    return Tokenizer.from_files(DEMO_MODEL / "gpt2-vocab.json", DEMO_MODEL / "gpt2-merges.txt")


@pytest.fixture(scope="session")
def merges(tokenizer) -> dict[tuple[bytes, bytes], int]:
    """Pair of byte strings -> its rank among the demo tokenizer's merges."""
    vocab = json.loads((DEMO_MODEL / "gpt2-vocab.json").read_text())
    lines = (DEMO_MODEL / "gpt2-merges.txt").read_text().splitlines()
    pairs = [line.split(" ") for line in lines if not line.startswith("#version")]
    in_bytes = [tuple(tokenizer.token_bytes(vocab[piece]) for piece in pair) for pair in pairs]
    return {pair: rank for rank, pair in enumerate(in_bytes)}


@pytest.fixture(scope="session")
def config(tokenizer) -> OPTConfig:
    return OPTConfig(2, 64, 4, 128, tokenizer.vocab_size, 128, 64)


@pytest.fixture(scope="session")
def weights(config) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    targets = OPTModel(config, torch.float32).weight_targets()
    # Biases that outweigh the rest would repeat the same few tokens for ever.
    scale = {name: 0.05 if name.endswith("bias") else 0.3 for name in targets}
    return {n: torch.randn(t.shape, generator=generator) * scale[n] for n, t in targets.items()}


@pytest.fixture(scope="session")
def model(config, weights) -> OPTModel:
    model = OPTModel(config, torch.float32)
    for name, target in model.weight_targets().items():
        target.copy_(weights[name])
    model.finalize()
    return model


@pytest.fixture(scope="session")
def peer(config, weights):
    """The same weights in the independent implementation."""
    from transformers import OPTConfig as HFConfig
    from transformers import OPTForCausalLM

    peer = OPTForCausalLM(
        HFConfig(
            num_hidden_layers=config.num_layers,
            hidden_size=config.hidden_size,
            num_attention_heads=config.num_heads,
            ffn_dim=config.ffn_dim,
            vocab_size=config.vocab_size,
            max_position_embeddings=config.max_positions,
            word_embed_proj_dim=config.embedding_size,
        )
    ).eval()
    state = peer.state_dict()
    for name, tensor in weights.items():
        state["model." + name.replace("r.layer_norm", "r.final_layer_norm")].copy_(tensor)
    return peer


@pytest.fixture
def make_engine(model, tokenizer) -> Callable[..., Engine]:
    """An engine for `max_batch` sequences at once; `num_blocks` of cache, or enough for all."""

    def make_engine(max_batch, num_blocks=None, kernel=None):
        num_blocks = num_blocks or max_batch * num_blocks_for(model.config.max_positions)
        cache = PagedCache(model.config, num_blocks, torch.float32, model.device)
        return Engine(Runner(model, cache, kernel), tokenizer, max_batch)

    return make_engine


@pytest.fixture
def run() -> Callable[[Engine, list], dict[str, list[GenerationOutput]]]:
    """Adds requests, steps until none is left; the outputs of each."""

    def run(engine, requests):
        for request in requests:
            engine.add(request)
        outputs = {request.request_id: [] for request in requests}
        while engine.has_work:
            for output in engine.step():
                outputs[output.request_id].append(output)
        return outputs

    return run
