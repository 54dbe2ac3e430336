"""K, V and Q stored as one tensor: `qkv_proj`, whose rows are K, V, Q whatever its name says."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from unshard.architectures.opt import FUSED_ORDER, TensorRule
from unshard.errors import CheckpointError
from unshard.index.slices import cut
from unshard.placement import local_box
from unshard.tensors import Shape, TensorRef

FUSED = "qkv_proj"


def is_fused(name: str) -> bool:
    """Whether the stored tensor `name` holds K, V and Q."""
    return f".{FUSED}." in name


def logical_names(name: str) -> tuple[str, ...]:
    """The logical tensors that the stored tensor `name` holds, in order of its rows."""
    if not is_fused(name):
        return (name,)
    return tuple(name.replace(FUSED, projection) for projection in FUSED_ORDER)


def split_fused(ref: TensorRef) -> Iterator[TensorRef]:
    """`ref` itself, or the three tensors that a fused weight or bias holds.

    Raises:
        CheckpointError: a fused tensor's rows are no multiple of three.
    """
    if not is_fused(ref.name):
        yield ref
        return
    shape = _third(ref.name, ref.shape)
    yield from cut([ref], [(name, shape) for name in logical_names(ref.name)])


def _third(name: str, shape: Shape) -> Shape:
    rows, remainder = divmod(shape[0] if shape else 0, len(FUSED_ORDER))
    if remainder or not shape:
        raise CheckpointError(f"{name}: shape {shape} is not three equal blocks K, V, Q")
    return (rows, *shape[1:])


def logical_shapes(stored: Mapping[str, Shape]) -> dict[str, Shape]:
    """The shapes of the logical tensors in stored tensors of these shapes.

    Raises:
        CheckpointError: a fused tensor's rows are no multiple of three.
    """
    return {
        logical: _third(name, shape) if is_fused(name) else shape
        for name, shape in stored.items()
        for logical in logical_names(name)
    }


def stored_shape(rules: Mapping[str, TensorRule], name: str, tp_size: int) -> Shape:
    """The shape that the stored tensor `name` has in one of `tp_size` parts.

    Raises:
        CheckpointError: there is no such tensor, or it does not divide.
    """
    names = logical_names(name)
    rule = rules.get(names[0])
    if rule is None:
        raise CheckpointError(f"tensor {name} is not part of an OPT model")
    _, sizes = local_box(rule.name, rule.shape, rule.placement, 0, tp_size)
    return (len(names) * sizes[0], *sizes[1:])


def fuse(names: Iterable[str]) -> dict[str, None]:
    """Logical names, in order, with those of K, V and Q as the fused tensor that holds them."""
    fused: dict[str, None] = {}
    for name in names:
        for projection in FUSED_ORDER:
            name = name.replace(f".{projection}.", f".{FUSED}.")
        fused[name] = None
    return fused
