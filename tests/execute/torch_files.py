"""Checkpoint files as torch itself reads, compares and writes them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch

Content = dict[str, Any]


def load(path: Path) -> Content:
    return torch.load(path, weights_only=False)  # type: ignore[no-any-return]


def change(paths: Iterable[Path], edit: Callable[[Content], object]) -> None:
    """Rewrites files."""
    for path in paths:
        content = load(path)
        edit(content)
        torch.save(content, path)


def same(left: Any, right: Any) -> bool:
    """Equal, tensors bit for bit and dicts in the same order."""
    if isinstance(left, torch.Tensor):
        return left.dtype == right.dtype and torch.equal(left, right)
    if isinstance(left, dict):
        return list(left) == list(right) and all(same(left[key], right[key]) for key in left)
    return bool(left == right)


def add_optimizer(content: Content) -> None:
    """Moments as an optimizer would keep of the file's flat parameters: fp32, of their length."""
    flats = [value for name, value in content["model"].items() if "flat_param" in name]
    content["last_optimizer_state"] = {
        "state": {
            number: {"step": 7, "exp_avg": flat.float() * 0.5, "exp_avg_sq": flat.float() ** 2}
            for number, flat in enumerate(flats)
        },
        "param_groups": [{"lr": 0.1, "params": list(range(len(flats)))}],
        "loss_scale": 4.0,
    }
    content["shard_metadata"] = content.pop("shard_metadata")  # the trainer writes it last
