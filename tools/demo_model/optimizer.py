"""Muon for the matrices of the layers, AdamW for everything else.

Muon (Keller Jordan, 2024) turns the momentum of a matrix into the nearest orthogonal matrix
before it is applied. At this size it needs a fraction of the steps of AdamW.
"""

import torch
from torch import Tensor, nn

from .settings import Recipe


def orthogonalise(matrix: Tensor, iterations: int = 5) -> Tensor:
    """Pulls all singular values towards 1 by a quintic Newton-Schulz iteration."""
    wide = matrix.mT if matrix.shape[0] > matrix.shape[1] else matrix
    wide = wide / (wide.norm() + 1e-7)
    for _ in range(iterations):
        square = wide @ wide.mT
        wide = 3.4445 * wide + (2.0315 * square @ square - 4.7750 * square) @ wide
    result: Tensor = wide.mT if matrix.shape[0] > matrix.shape[1] else wide
    return result


def muon_direction(gradient: Tensor, stacked: int) -> Tensor:
    """The orthogonal update; fused projections are treated one by one."""
    blocks = gradient.chunk(stacked)
    scale = max(1.0, blocks[0].shape[0] / blocks[0].shape[1]) ** 0.5
    return torch.cat([orthogonalise(block) for block in blocks]).mul(scale)


class Optimizer:
    """Both optimisers under one learning rate schedule."""

    def __init__(self, network: nn.Module, recipe: Recipe) -> None:
        self.recipe = recipe
        self.matrices: list[tuple[nn.Parameter, Tensor, int]] = []
        others: list[nn.Parameter] = []
        for name, parameter in network.named_parameters():
            if parameter.dim() == 2 and ".layers." in name:
                stacked = 3 if "qkv_proj" in name else 1
                self.matrices.append((parameter, torch.zeros_like(parameter), stacked))
            else:
                others.append(parameter)
        self.adam = torch.optim.AdamW(
            others,
            lr=recipe.adam_learning_rate,
            betas=recipe.adam_betas,
            weight_decay=0.0,
            fused=True,
        )

    def step(self, factor: float) -> None:
        """Applies the gradients; `factor` scales both peak learning rates."""
        for group in self.adam.param_groups:
            group["lr"] = self.recipe.adam_learning_rate * factor
        self.adam.step()
        self._step_matrices(self.recipe.muon_learning_rate * factor)

    @torch.no_grad()
    def _step_matrices(self, rate: float) -> None:
        momentum = self.recipe.muon_momentum
        for parameter, average, stacked in self.matrices:
            if parameter.grad is None:
                continue
            average.lerp_(parameter.grad, 1 - momentum)
            nesterov = parameter.grad.lerp(average, momentum)
            parameter.mul_(1 - rate * self.recipe.weight_decay)
            parameter.sub_(muon_direction(nesterov, stacked), alpha=rate)
