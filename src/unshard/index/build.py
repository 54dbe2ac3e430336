"""Opening a checkpoint: any layout in, one index out. Reads headers and pickles only."""

from __future__ import annotations

from pathlib import Path

from unshard.formats.records import as_mapping
from unshard.formats.torch_zip import read_torch_file
from unshard.index.checkpoint import Checkpoint
from unshard.index.hugging_face import open_hugging_face
from unshard.index.metaseq import open_metaseq
from unshard.index.sources import find_source


def open_checkpoint(source: str | Path) -> Checkpoint:
    """Opens the checkpoint that `source` (folder, glob or file) means.

    Raises:
        UsageError: nothing is there, or several checkpoints are.
        FormatError: a file breaks its format.
        CheckpointError: files or tensors are missing, left over or disagree.
    """
    found = find_source(str(source))
    if found.is_safetensors or _is_state_dict(found.files[0]):
        return open_hugging_face(found)
    return open_metaseq(found)


def _is_state_dict(path: Path) -> bool:
    """Whether a torch archive holds tensors by name, and not a checkpoint that has a model."""
    return "model" not in (as_mapping(read_torch_file(path).content) or {"model": None})
