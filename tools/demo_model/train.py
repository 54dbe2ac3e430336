"""Trains the network and keeps the weights that do best on the validation passages."""

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from .evaluate import count_targets, loss, total_nats
from .network import Network, from_half, half_weights
from .optimizer import Optimizer
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
    total_steps: int = 0


def validate(network: Network, material: Material, architecture: Architecture) -> float:
    """Nats per validation token of the weights after rounding to fp16."""
    rounded = from_half(half_weights(network), architecture)
    batches = list(evaluation_batches(material.validation, architecture.max_positions, 8))
    return total_nats(rounded, batches) / count_targets(batches)


class Run:
    """A training run under way."""

    def __init__(self, material: Material, architecture: Architecture, recipe: Recipe) -> None:
        self.material, self.architecture, self.recipe = material, architecture, recipe
        self.network = Network(architecture, recipe.dropout)
        self.optimizer = Optimizer(self.network, recipe)
        self.rng = np.random.default_rng(recipe.seed)
        self.start = time.monotonic()
        self.step, self.tokens = 0, 0
        self.losses: list[float] = []
        self.best = Trained({}, 0, math.inf, 0, 0.0)

    def seconds(self) -> float:
        return time.monotonic() - self.start

    def batches(self, length: int) -> Iterator[Batch]:
        rows, material = self.recipe.tokens_per_step // length, self.material
        return training_batches(material.training, material.line_ends, length, rows, self.rng)

    def advance(self, batch: Batch, factor: float) -> None:
        """One optimisation step with the peak learning rates times `factor`."""
        self.network.train()
        value = loss(self.network(batch.inputs), batch.targets)
        self.network.zero_grad(set_to_none=True)
        value.backward()
        nn.utils.clip_grad_norm_(self.network.parameters(), self.recipe.clip_norm)
        self.optimizer.step(factor)
        self.losses.append(value.item())
        self.tokens += count_targets([batch])
        self.step += 1
        if self.step % self.recipe.validation_interval == 0:
            self.validate()

    def validate(self) -> None:
        """Reports, and keeps the weights if they are the best so far."""
        nats, seconds = validate(self.network, self.material, self.architecture), self.seconds()
        mean = sum(self.losses) / max(1, len(self.losses))
        report = f"training {mean:.4f}, validation {nats:.4f}, {seconds:.0f} s"
        print(f"step {self.step}: {report}", flush=True)
        self.losses.clear()
        if nats < self.best.validation_nats:
            weights = half_weights(self.network)
            self.best = Trained(weights, self.step, nats, self.tokens, seconds)


def train_stable(run: Run, seconds: float) -> None:
    """Short windows at the full learning rate, until the steps are done or the time is up."""
    warmup = run.recipe.warmup_steps
    batches = run.batches(run.recipe.short_window)
    while run.step < run.recipe.stable_steps() and run.seconds() < seconds:
        run.advance(next(batches), min(1.0, (run.step + 1) / warmup))


def train_decay(run: Run) -> None:
    """Windows of the full length while the learning rate falls linearly."""
    count = run.recipe.decay_steps(run.step)
    batches = run.batches(run.architecture.max_positions)
    for done in range(count):
        run.advance(next(batches), 1 - (1 - run.recipe.final_rate_factor) * done / count)
    run.validate()


def train(
    material: Material, architecture: Architecture, recipe: Recipe, stable_seconds: float
) -> Trained:
    """The whole run; prints one line per validation."""
    torch.set_num_threads(recipe.threads)
    torch.use_deterministic_algorithms(True)
    torch.manual_seed(recipe.seed)
    run = Run(material, architecture, recipe)
    train_stable(run, stable_seconds)
    train_decay(run)
    return replace(run.best, seconds=run.seconds(), total_steps=run.step)
