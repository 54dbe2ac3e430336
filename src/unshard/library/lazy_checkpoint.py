"""A checkpoint in any layout as lazy tensors by name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from unshard.architectures.opt import FUSED_ORDER, OPTConfig, tensor_rules
from unshard.errors import UnknownTensorError, UsageError
from unshard.execute.diff import Difference, diff
from unshard.execute.fingerprint import Fingerprint, fingerprint
from unshard.index.build import open_checkpoint
from unshard.index.checkpoint import Checkpoint, Layout
from unshard.index.fused import FUSED
from unshard.library.lazy_tensor import LazyTensor, whole_tensor
from unshard.placement import local_box
from unshard.progress import Progress


class LazyCheckpoint(Mapping[str, LazyTensor]):
    """Every tensor of a model by canonical name, in model order; nothing is read before it is
    asked for, and no file stays open, so there is nothing to close."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.checkpoint = checkpoint

    def __getitem__(self, name: str) -> LazyTensor:
        """The tensor `name`.

        Raises:
            UnknownTensorError: there is none; it is a KeyError.
        """
        if name not in self.checkpoint.index:
            raise UnknownTensorError(
                f"{self.checkpoint.source}: has no tensor {name!r}", hint=self._hint(name)
            )
        return whole_tensor(self.checkpoint.index[name])

    def __contains__(self, name: object) -> bool:
        return name in self.checkpoint.index

    def __iter__(self) -> Iterator[str]:
        return iter(self.checkpoint.index)

    def __len__(self) -> int:
        return len(self.checkpoint.index)

    def __repr__(self) -> str:
        layout = self.layout
        return (
            f"<LazyCheckpoint {self.checkpoint.source}: {len(self)} tensors, {layout.kind}, "
            f"{layout.tp_size} tensor-parallel x {layout.fsdp_size} FSDP, "
            f"{len(layout.files)} files>"
        )

    @property
    def config(self) -> OPTConfig:
        """The model's shape."""
        return self.checkpoint.config

    @property
    def layout(self) -> Layout:
        """How the checkpoint lies on disk."""
        return self.checkpoint.layout

    def fingerprint(self, *, progress: Progress | None = None) -> Fingerprint:
        """The digests of the weights, the same in every layout; reads them all.

        Raises:
            FormatError: a file is shorter than its headers said.
            CheckpointError: copies of a replicated tensor differ.
        """
        return fingerprint(self.checkpoint.index, progress=progress)

    def diff(self, other: LazyCheckpoint, *, progress: Progress | None = None) -> list[Difference]:
        """Every tensor that differs from `other`'s, bit for bit; reads both.

        Raises:
            FormatError: a file is shorter than its headers said.
        """
        return diff(self.checkpoint.index, other.checkpoint.index, progress=progress)

    def local(self, tp_rank: int, tp_size: int) -> dict[str, LazyTensor]:
        """What rank `tp_rank` of `tp_size` tensor-parallel ranks holds: slices of the tensors
        that Megatron's placements split, the others whole. Reads nothing.

        Raises:
            UsageError: there is no such rank, or the heads do not divide by `tp_size`.
            CheckpointError: a split dimension does not divide by `tp_size`.
        """
        if not 0 <= tp_rank < tp_size:
            raise UsageError(f"there is no rank {tp_rank} of {tp_size} tensor-parallel ranks")
        if self.config.num_heads % tp_size:
            raise UsageError(
                f"{tp_size} tensor-parallel ranks: the model has {self.config.num_heads} heads"
            )
        rules, found = tensor_rules(self.config), {}
        for name, tensor in self.items():
            offsets, sizes = local_box(name, tensor.shape, rules[name].placement, tp_rank, tp_size)
            box = zip(offsets, sizes, strict=True)
            found[name] = tensor[tuple(slice(start, start + size) for start, size in box)]
        return found

    def _hint(self, name: object) -> str:
        for rule in tensor_rules(self.config).values():
            if rule.hugging_face_name == name:
                return f"this is its Hugging Face name; here it is {rule.name!r}"
        if FUSED in str(name):
            return f"fused tensors are apart here: {', '.join(FUSED_ORDER)}"
        return "iterate over the checkpoint for its names"


def open(source: str | Path) -> LazyCheckpoint:  # noqa: A001  (as `unshard.open`)
    """The checkpoint that `source` (folder, pattern or file) means; reads headers only.

    Raises:
        UsageError: nothing is there, or several checkpoints are.
        FormatError: a file breaks its format.
        CheckpointError: files or tensors are missing, left over or disagree.
    """
    return LazyCheckpoint(open_checkpoint(source))
