"""A checkpoint as the rest of the program sees it, whatever files it came from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from unshard.architectures.opt import OPTConfig
from unshard.index.companions import Companion
from unshard.tensors import ByteRange, StoredRecord, TensorIndex, TensorRef

LayoutKind = Literal["metaseq-raw", "metaseq-consolidated", "huggingface"]


@dataclass(frozen=True, slots=True)
class Layout:
    """How the checkpoint lies on disk, and how that was found out."""

    kind: LayoutKind
    tp_size: int
    fsdp_size: int
    fused_qkv: bool
    files: tuple[Path, ...]
    evidence: tuple[str, ...]
    """One plain sentence per conclusion, for people."""


@dataclass(frozen=True)
class PartMetadata:
    """What one tensor-parallel part's first file pickles beside its weights."""

    entries: Mapping[str, Any]
    """The top level without `model`: cfg, shard_metadata, … as plain data and inert records."""
    storages: Mapping[str, TensorRef]
    """The file's storages by key, which tensors in `entries` (random states, meters) use."""


@dataclass(frozen=True)
class Checkpoint:
    """An opened checkpoint: the index of its tensors and what came with them."""

    source: str
    """What the user named."""
    folder: Path
    """Where the checkpoint's files, and its tokenizer's, lie."""
    layout: Layout
    config: OPTConfig
    index: TensorIndex
    metadata: tuple[PartMetadata, ...]
    """One per tensor-parallel part; none for safetensors."""
    units: tuple[tuple[str, ...], ...]
    """Stored tensor names by FSDP unit, root first, as the files group them (with fused
    names where the files fuse). One tensor per unit where the layout knows no units."""
    companions: Mapping[Companion, ByteRange]
    """The tokenizer's files found beside the weights, each as all of its bytes."""
    stored: tuple[StoredRecord, ...] = ()
    """The files' records whose CRC-32 the files themselves state."""
