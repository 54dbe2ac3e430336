"""Text from the trained network: greedy for the golden file, sampled for the model card."""

from dataclasses import dataclass

import torch
from tokenizers import ByteLevelBPETokenizer
from torch import Tensor

from .network import Network
from .settings import SpecialTokens


@dataclass(frozen=True)
class Golden:
    """A prompt and what a correct reader of the checkpoint must answer."""

    prompt: str
    prompt_ids: list[int]
    greedy_ids: list[int]
    greedy_text: str
    first_argmax: int
    first_logprob: float
    smallest_margin: float


def prompt_ids(tokenizer: ByteLevelBPETokenizer, prompt: str) -> list[int]:
    """A prompt's tokens with `</s>` in front."""
    return [SpecialTokens().end, *tokenizer.encode(prompt).ids]


@dataclass(frozen=True)
class Sampling:
    """How the samples are drawn."""

    seed: int
    count: int = 200
    temperature: float = 0.8
    top_k: int = 40


@torch.no_grad()
def next_logits(network: Network, ids: list[int]) -> Tensor:
    logits: Tensor = network(torch.tensor([ids]))[0, -1]
    return logits


def golden(
    network: Network, tokenizer: ByteLevelBPETokenizer, prompt: str, count: int = 24
) -> Golden:
    """Continues a prompt greedily in fp32; the margin is between the best two logits."""
    start = prompt_ids(tokenizer, prompt)
    ids, margins = list(start), []
    for _ in range(count):
        best = next_logits(network, ids).topk(2)
        margins.append(float(best.values[0] - best.values[1]))
        ids.append(int(best.indices[0]))
    continuation = ids[len(start) :]
    logprobs = next_logits(network, start).log_softmax(-1)
    first = continuation[0]
    text = tokenizer.decode(continuation, skip_special_tokens=False)
    return Golden(prompt, start, continuation, text, first, float(logprobs[first]), min(margins))


def sample(
    network: Network, tokenizer: ByteLevelBPETokenizer, prompt: str, sampling: Sampling
) -> str:
    """Samples until `</s>` or `count` tokens; returns prompt and continuation."""
    generator = torch.Generator().manual_seed(sampling.seed)
    ids = prompt_ids(tokenizer, prompt)
    for _ in range(sampling.count):
        best = (next_logits(network, ids) / sampling.temperature).topk(sampling.top_k)
        drawn = torch.multinomial(best.values.softmax(-1), 1, generator=generator)
        token = int(best.indices[drawn])
        if token == SpecialTokens().end:
            break
        ids.append(token)
    return str(tokenizer.decode(ids[1:], skip_special_tokens=False))
