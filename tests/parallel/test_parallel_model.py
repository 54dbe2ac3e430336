"""The law of tensor parallelism: any number of ranks, each with its slices, says what one says.

The ranks are threads that meet for every sum.
"""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from unshard.architectures.opt import OPTConfig, tensor_rules
from unshard.execute.model_sink import put_rows
from unshard.models.attention import causal_attention
from unshard.models.opt import OPTModel
from unshard.parallel.group import ALONE
from unshard.placement import local_box

PRE_NORM = OPTConfig(2, 64, 4, 160, 200, 96, 64)
VARIANTS = {
    "pre-norm": PRE_NORM,
    "350m": replace(PRE_NORM, embedding_size=32, pre_norm=False),
    "untied": replace(PRE_NORM, tied_embeddings=False),
    "odd vocabulary": replace(PRE_NORM, vocab_size=201),
    "odd vocabulary, untied": replace(PRE_NORM, vocab_size=201, tied_embeddings=False),
}


class Meeting:
    """Where `size` threads put what they add or lay side by side."""

    def __init__(self, size: int) -> None:
        self.parts: list[Tensor | None] = [None] * size
        self.barrier = threading.Barrier(size, timeout=60)
        self.num_sums = 0


class ThreadGroup:
    def __init__(self, rank: int, meeting: Meeting) -> None:
        self.rank = rank
        self.size = len(meeting.parts)
        self._meeting = meeting

    def _all_parts(self, x: Tensor) -> list[Tensor]:
        self._meeting.parts[self.rank] = x.clone()
        self._meeting.barrier.wait()
        parts = list(self._meeting.parts)
        self._meeting.barrier.wait()
        return parts

    def sum(self, x: Tensor) -> Tensor:
        self._meeting.num_sums += self.rank == 0
        return torch.stack(self._all_parts(x)).sum(0)

    def gather_columns(self, x: Tensor) -> Tensor:
        parts = self._all_parts(x)
        return x if self.rank else torch.cat(parts, dim=1)

    def least(self, number: int) -> int:
        return number

    def meet(self) -> None:
        self._meeting.barrier.wait()


class CausalAttention:
    def __init__(self, num_heads: int) -> None:
        self._num_heads = num_heads

    def __call__(self, layer: int, kvq: Tensor) -> Tensor:
        return causal_attention(kvq, self._num_heads)


def weights(config: OPTConfig) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(5)
    targets = OPTModel(config, torch.float32).weight_targets()
    return {n: torch.randn(t.shape, generator=generator) * 0.2 for n, t in targets.items()}


def model_of(
    config: OPTConfig, whole: dict[str, Tensor], group: ThreadGroup | None, bits: int | None = None
) -> OPTModel:
    model = OPTModel(config, torch.float32, group=group or ALONE, matrix_bits=bits)
    rules = tensor_rules(config)
    for name, target in model.weight_targets().items():
        value = whole[name]
        if target.shape != value.shape:
            box = local_box(name, value.shape, rules[name].placement, group.rank, group.size)
            value = value[tuple(slice(o, o + s) for o, s in zip(*box, strict=True))]
        put_rows(target, 0, value)
    model.finalize()
    return model


def logits(model: OPTModel, num_heads: int, ids: Tensor) -> tuple[Tensor, Tensor]:
    with torch.inference_mode():
        positions = torch.arange(len(ids))
        hidden = model.hidden_states(ids, positions, CausalAttention(num_heads))
        return hidden, model.logits(hidden)


@pytest.mark.parametrize("size", [2, 4])
@pytest.mark.parametrize("variant", VARIANTS)
def test_ranks_say_what_one_says(variant: str, size: int) -> None:
    ranks_say_what_one_says(VARIANTS[variant], size, None)


@pytest.mark.parametrize("embedding_size", [256, 32])
def test_ranks_say_what_one_says_in_int4(embedding_size: int) -> None:
    """Whatever is split holds whole groups of 128 values on each rank, as on one."""
    config = OPTConfig(2, 256, 4, 512, 200, 96, embedding_size, pre_norm=embedding_size == 256)
    ranks_say_what_one_says(config, 2, 4)


def ranks_say_what_one_says(config: OPTConfig, size: int, bits: int | None) -> None:
    whole = weights(config)
    ids = torch.randint(config.vocab_size, (11,), generator=torch.Generator().manual_seed(1))
    hidden, expected = logits(model_of(config, whole, None, bits), config.num_heads, ids)
    meeting = Meeting(size)

    def one(rank: int) -> tuple[Tensor, Tensor]:
        model = model_of(config, whole, ThreadGroup(rank, meeting), bits)
        return logits(model, config.num_heads // size, ids)

    with ThreadPoolExecutor(size) as pool:
        found = list(pool.map(one, range(size)))
    assert found[0][1].shape == expected.shape
    assert (found[0][1] - expected).abs().max() < 1e-4
    assert torch.equal(found[0][1].argmax(1), expected.argmax(1))
    for each, _ in found:
        assert torch.equal(each, found[0][0])
        assert (each - hidden).abs().max() < 1e-4
    splits_vocabulary = config.vocab_size % size == 0
    assert meeting.num_sums == 2 * config.num_layers + splits_vocabulary


def test_each_rank_holds_its_share() -> None:
    config = VARIANTS["pre-norm"]
    models = [OPTModel(config, torch.float32, group=ThreadGroup(r, Meeting(4))) for r in range(4)]
    sizes = [{n: t.numel() for n, t in model.weight_targets().items()} for model in models]
    whole = {n: t.numel() for n, t in OPTModel(config, torch.float32).weight_targets().items()}
    rules = tensor_rules(config)
    for name, size in whole.items():
        held = [each[name] for each in sizes if name in each]
        if hasattr(rules[name].placement, "dim"):
            assert held == [size / 4] * 4
        elif name.endswith(("out_proj.bias", "fc2.bias")):
            assert held == [size]
        else:
            assert held == [size] * 4
