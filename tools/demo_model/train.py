"""Trains the network and keeps the weights that do best on the validation passages."""

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.random import Generator
from torch import Tensor, nn

from .evaluate import count_targets, loss, total_nats
from .network import Network, from_half, half_weights
from .settings import Architecture, Recipe
from .windows import Batch, Tokens, evaluation_batches, training_batches


@dataclass(frozen=True)
class Material:
    """Token sequences to train on and to choose by."""

    training: list[Tokens]
    validation: list[Tokens]
    line_ends: Tokens


@dataclass(frozen=True)
class Trained:
    """The chosen fp16 weights and how they came about."""

    weights: dict[str, Tensor]
    step: int
    validation_nats: float
    trained_tokens: int
    seconds: float


def learning_rate(step: int, recipe: Recipe) -> float:
    """Linear warm-up, then a cosine down to the final rate."""
    if step < recipe.warmup_steps:
        return recipe.peak_learning_rate * (step + 1) / recipe.warmup_steps
    progress = (step - recipe.warmup_steps) / max(1, recipe.steps - recipe.warmup_steps)
    span = recipe.peak_learning_rate - recipe.final_learning_rate
    return recipe.final_learning_rate + span * 0.5 * (1 + math.cos(math.pi * progress))


def optimizer_for(network: Network, recipe: Recipe) -> torch.optim.AdamW:
    """AdamW that decays the matrices of the layers, not embeddings, biases and norms."""
    decayed: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    for name, parameter in network.named_parameters():
        matrix = parameter.dim() == 2 and ".layers." in name
        (decayed if matrix else others).append(parameter)
    groups = [
        {"params": decayed, "weight_decay": recipe.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(
        groups, lr=recipe.peak_learning_rate, betas=recipe.adam_betas, fused=True
    )


def schedule(
    material: Material, architecture: Architecture, recipe: Recipe, rng: Generator
) -> Iterator[Batch]:
    """Short windows first, then windows of the full length."""
    long_steps = round(recipe.steps * recipe.long_window_fraction)
    stages = [
        (recipe.short_window, recipe.steps - long_steps),
        (architecture.max_positions, long_steps),
    ]
    for length, steps in stages:
        rows = recipe.tokens_per_step // length
        batches = training_batches(material.training, material.line_ends, length, rows, rng)
        for _ in range(steps):
            yield next(batches)


def update(network: Network, optimizer: torch.optim.AdamW, batch: Batch, recipe: Recipe) -> float:
    """One optimisation step; returns the training loss."""
    network.train()
    value = loss(network(batch.inputs), batch.targets)
    optimizer.zero_grad(set_to_none=True)
    value.backward()  # type: ignore[no-untyped-call]
    nn.utils.clip_grad_norm_(network.parameters(), recipe.clip_norm)
    optimizer.step()
    return value.item()


def validate(network: Network, material: Material, architecture: Architecture) -> float:
    """Nats per validation token of the weights after rounding to fp16."""
    rounded = from_half(half_weights(network), architecture)
    batches = list(evaluation_batches(material.validation, architecture.max_positions, 8))
    return total_nats(rounded, batches) / count_targets(batches)


def train(material: Material, architecture: Architecture, recipe: Recipe) -> Trained:
    """The whole run; prints one line per validation."""
    torch.set_num_threads(recipe.threads)
    torch.use_deterministic_algorithms(True)
    torch.manual_seed(recipe.seed)
    network = Network(architecture, recipe.dropout)
    optimizer = optimizer_for(network, recipe)
    batches = schedule(material, architecture, recipe, np.random.default_rng(recipe.seed))
    interval = max(1, recipe.steps // recipe.validations)
    best = Trained({}, 0, math.inf, 0, 0.0)
    losses: list[float] = []
    tokens, start = 0, time.monotonic()
    for step, batch in enumerate(batches):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, recipe)
        losses.append(update(network, optimizer, batch, recipe))
        tokens += count_targets([batch])
        if (step + 1) % interval and step + 1 < recipe.steps:
            continue
        nats, seconds = validate(network, material, architecture), time.monotonic() - start
        mean = sum(losses) / len(losses)
        losses.clear()
        report = f"training {mean:.4f}, validation {nats:.4f}, {seconds:.0f} s"
        print(f"step {step + 1}/{recipe.steps}: {report}", flush=True)
        if nats < best.validation_nats:
            best = Trained(half_weights(network), step + 1, nats, tokens, seconds)
    whole = time.monotonic() - start
    return Trained(best.weights, best.step, best.validation_nats, best.trained_tokens, whole)
