"""The tensors of a model as a tree of modules, equal layers folded into one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from unshard.tensors import LogicalTensor, Shape

NAME_WIDTH = 40


@dataclass(slots=True)
class Module:
    """What lies under one part of the dotted names, in model order."""

    modules: dict[str, Module] = field(default_factory=dict)
    tensors: dict[str, LogicalTensor] = field(default_factory=dict)

    @property
    def num_tensors(self) -> int:
        return len(self.tensors) + sum(child.num_tensors for child in self.modules.values())

    @property
    def num_elements(self) -> int:
        own = sum(tensor.num_elements for tensor in self.tensors.values())
        return own + sum(child.num_elements for child in self.modules.values())

    def signature(self) -> tuple[Any, ...]:
        """Equal for modules that hold tensors of the same names, dtypes and shapes."""
        own = tuple((name, each.dtype, each.shape) for name, each in self.tensors.items())
        return (own, *((name, child.signature()) for name, child in self.modules.items()))


@dataclass(frozen=True, slots=True)
class Fold:
    """`repeats` equal modules one after the other, of which `module` is the first."""

    name: str
    module: Module
    repeats: int


def build_tree(tensors: Iterable[LogicalTensor]) -> Module:
    """The tree that the dots in the tensors' names make."""
    root = Module()
    for tensor in tensors:
        *path, name = tensor.name.split(".")
        module = root
        for part in path:
            module = module.modules.setdefault(part, Module())
        module.tensors[name] = tensor
    return root


def folds(module: Module) -> Iterator[Fold]:
    """The modules under `module`, runs of equal numbered ones as one."""
    for name, child in module.modules.items():
        if child.tensors or not all(number.isdigit() for number in child.modules):
            yield Fold(name, child, 1)
            continue
        runs: list[list[str]] = []
        for number, layer in child.modules.items():
            if runs and child.modules[runs[-1][0]].signature() == layer.signature():
                runs[-1].append(number)
            else:
                runs.append([number])
        for run in runs:
            last = f" … {name}.{run[-1]}" if len(run) > 1 else ""
            yield Fold(f"{name}.{run[0]}{last}", child.modules[run[0]], len(run))


def tree_lines(module: Module, indent: str = "") -> Iterator[str]:
    """The tree for people."""
    for fold in folds(module):
        if fold.repeats == 1 and not fold.module.modules:
            yield from _tensor_lines(fold.module, f"{indent}{fold.name}.")
            continue
        each = " each" if fold.repeats > 1 else ""
        yield (
            f"{indent + fold.name:<{NAME_WIDTH}} {fold.module.num_tensors} tensors{each}, "
            f"{fold.module.num_elements:,} elements{each}"
        )
        yield from tree_lines(fold.module, indent + "  ")
    yield from _tensor_lines(module, indent)


def _tensor_lines(module: Module, prefix: str) -> Iterator[str]:
    for name, tensor in module.tensors.items():
        yield f"{prefix + name:<{NAME_WIDTH}} {tensor.dtype.name}  {format_shape(tensor.shape)}"


def format_shape(shape: Shape) -> str:
    """`256 x 1024`."""
    return " x ".join(map(str, shape))
