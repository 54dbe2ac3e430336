"""From what the user names to the checkpoint's files."""

from __future__ import annotations

import glob
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from unshard.errors import UsageError
from unshard.index.grid import parse_name
from unshard.index.weight_files import (
    INDEX_SUFFIX,
    WeightFiles,
    choose_weight_files,
    files_of_index,
    refuse_missing_numbers,
)

TRAINER_STATE = frozenset({"optimizer.pt", "scheduler.pt", "scaler.pt"})
"""What transformers' Trainer leaves beside weights."""
SUFFIXES = frozenset({".pt", ".bin", ".safetensors"})


@dataclass(frozen=True, slots=True)
class Source:
    """The files of one checkpoint, not yet opened."""

    text: str
    """What the user named."""
    files: tuple[Path, ...]
    weight_index: Path | None = None
    """Hugging Face's index file that these files were taken from."""
    notes: tuple[str, ...] = ()
    """Why these files, where others could have been meant."""

    @property
    def folder(self) -> Path:
        return self.files[0].parent

    @property
    def is_safetensors(self) -> bool:
        return self.files[0].suffix == ".safetensors"


def find_source(text: str) -> Source:
    """The checkpoint files that `text` (a folder, a pattern or a file) means.

    A file `STEM.pt` that is not there stands for `STEM-model_part-N.pt`, as metaseq's own
    settings mean it (metaseq#574).

    Raises:
        UsageError: nothing is there, several checkpoints are, or the folder holds none.
        CheckpointError: numbered files of a set are missing.
    """
    path = _expanded(text)
    if path.is_file():
        return _given(text, path)
    if path.is_dir():
        return _in_folder(text, path)
    if glob.has_magic(text):
        return _matching(text)
    parts = _parts_of(path)
    if parts:
        note = f"there is no file {path.name}; its parts are meant ({path.stem}-model_part-N.pt)"
        return Source(text, tuple(parts), notes=(note,))
    raise UsageError(
        f"{text}: no such file or folder",
        hint="give a checkpoint's folder, one of its files, or a quoted pattern of them",
    )


def _expanded(text: str) -> Path:
    try:
        return Path(text).expanduser()
    except RuntimeError:
        raise UsageError(f"{text}: no such user") from None


def _given(text: str, path: Path) -> Source:
    if path.name.endswith(INDEX_SUFFIX):
        return _of_weights(text, files_of_index(path))
    refuse_missing_numbers(text, [path])
    return Source(text, (path,))


def _of_weights(text: str, weights: WeightFiles) -> Source:
    return Source(text, weights.files, weights.index, weights.notes)


def _matching(text: str) -> Source:
    found = [path for path in map(Path, glob.glob(text)) if path.is_file()]  # noqa: PTH207  (the pattern may be absolute)
    known = sorted(path for path in found if path.suffix in SUFFIXES)
    if not known:
        raise UsageError(f"{text}: no file matches this pattern")
    suffixes = {path.suffix for path in known}
    if len(suffixes) > 1:
        raise UsageError(
            f"{text}: matches files of several kinds ({', '.join(sorted(suffixes))})",
            hint="end the pattern with one of them",
        )
    refuse_missing_numbers(text, known)
    return Source(text, tuple(known))


def _in_folder(text: str, folder: Path) -> Source:
    files = sorted(path for path in folder.iterdir() if path.suffix in SUFFIXES and path.is_file())
    archives = [path for path in files if path.suffix == ".pt" and path.name not in TRAINER_STATE]
    weights = choose_weight_files(text, folder, files)
    if archives and weights:
        raise UsageError(
            f"{text}: holds both .pt files and {weights.files[0].suffix.removeprefix('.')}",
            hint=f"choose with a pattern: '{text}/*.pt' or '{text}/*{weights.files[0].suffix}'",
        )
    if weights:
        return _of_weights(text, weights)
    if archives:
        return Source(text, tuple(archives))
    raise UsageError(
        f"{text}: no checkpoint in this folder (no *.pt, no *.safetensors, no pytorch_model*.bin)",
        hint="name the folder that holds the checkpoint files themselves",
    )


def _parts_of(path: Path) -> Sequence[Path]:
    """The files whose names are `path`'s with ranks in them."""
    if path.suffix != ".pt" or not path.parent.is_dir():
        return ()
    siblings = (each for each in path.parent.iterdir() if each.suffix == ".pt" and each.is_file())
    return sorted(each for each in siblings if parse_name(each).stem == path.stem)
