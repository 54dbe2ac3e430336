"""The small files beside the weights: generated ones, and copies of the tokenizer's."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from unshard.dtypes import UINT8
from unshard.index.checkpoint import Checkpoint
from unshard.index.companions import Companion
from unshard.plan.boxes import whole
from unshard.plan.copy_plan import CopyItem, PlannedFile, PlannedTensor, Record
from unshard.tensors import TensorRef


def literal_file(name: str, content: bytes) -> PlannedFile:
    """A file with this content."""
    return PlannedFile(name, "plain", (Record(name, 0, literal=content),), len(content))


def json_file(name: str, content: Mapping[str, Any]) -> PlannedFile:
    """A JSON file with this content."""
    return literal_file(name, (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode())


def copied_companions(
    checkpoint: Checkpoint, names: Mapping[Companion, str]
) -> Iterator[PlannedFile]:
    """The checkpoint's tokenizer files, copied under the target layout's names."""
    for companion, content in checkpoint.companions.items():
        ref = TensorRef(names[companion], UINT8, (content.length,), (content,))
        item = CopyItem(whole(ref.shape), ref, whole(ref.shape))
        record = Record(ref.name, 0, tensors=(PlannedTensor(ref.name, UINT8, ref.shape, (item,)),))
        yield PlannedFile(ref.name, "plain", (record,), content.length)
