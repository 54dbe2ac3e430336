"""A checkpoint as the rest of the program sees it, whatever files it came from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from unshard.architectures.opt import OPTConfig
from unshard.tensors import TensorIndex

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
class Checkpoint:
    """An opened checkpoint: the index of its tensors and what came with them."""

    source: str
    """What the user named."""
    folder: Path
    """Where the checkpoint's files, and its tokenizer's, lie."""
    layout: Layout
    config: OPTConfig
    index: TensorIndex
    metadata: Mapping[str, Any]
    """Top level of the first file's pickle without its weights: cfg, shard_metadata, …
    Values are plain data or inert records; empty for safetensors."""
    units: tuple[tuple[str, ...], ...]
    """Stored tensor names by FSDP unit, root first, as the raw files group them (fused
    names where the files fuse). One unit per tensor where the layout knows no units."""
