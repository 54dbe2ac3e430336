"""Which files of a folder hold Hugging Face's weights, and what their index says.

Same choice as transformers makes: `model.safetensors`, else the files that
`model.safetensors.index.json` names, else the same for `pytorch_model.bin`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from unshard.errors import CheckpointError, FormatError
from unshard.formats.json_object import read_json_object
from unshard.manifest import file_name_problem

INDEX_SUFFIX = ".index.json"
NAMES = ("model.safetensors", "pytorch_model.bin")
NUMBERED = re.compile(r"^(?P<stem>.+)-(?P<number>\d{1,9})-of-(?P<count>\d{1,9})\.\w+$")


@dataclass(frozen=True, slots=True)
class WeightFiles:
    """The files of one set of weights."""

    files: tuple[Path, ...]
    index: Path | None = None
    notes: tuple[str, ...] = ()


def choose_weight_files(source: str, folder: Path, files: Sequence[Path]) -> WeightFiles | None:
    """The weights among `files`, all of `folder`, or None when there are none.

    Raises:
        CheckpointError: files of the set are missing; the message names one.
        FormatError: an index file is damaged.
    """
    candidates = [
        path for path in files if path.suffix == ".safetensors" or path.match("pytorch_model*.bin")
    ]
    if not candidates:
        return None
    chosen = _first_choice(folder) or _all_of_one_kind(source, candidates)
    others = [path.name for path in candidates if path not in chosen.files]
    notes = tuple(_notes(chosen, others))
    return replace(chosen, notes=notes)


def _first_choice(folder: Path) -> WeightFiles | None:
    for name in NAMES:
        if (folder / name).is_file():
            return WeightFiles((folder / name,))
        if (folder / f"{name}{INDEX_SUFFIX}").is_file():
            return files_of_index(folder / f"{name}{INDEX_SUFFIX}")
    return None


def _all_of_one_kind(source: str, candidates: Sequence[Path]) -> WeightFiles:
    suffix = max(path.suffix for path in candidates)  # ".safetensors" comes before ".bin"
    files = [path for path in candidates if path.suffix == suffix]
    refuse_missing_numbers(source, files)
    return WeightFiles(tuple(files))


def _notes(chosen: WeightFiles, others: Sequence[str]) -> Iterator[str]:
    """What was left aside, a sentence for each reason."""
    suffix = chosen.files[0].suffix
    unlike = [name for name in others if not name.endswith(suffix)]
    if unlike:
        yield f"safetensors are preferred to {_listed(unlike)}, as transformers does"
    alike = [name for name in others if name.endswith(suffix)]
    if alike:
        by = chosen.index.name if chosen.index else chosen.files[0].name
        yield f"{_listed(alike)} is not read: {by} is the whole model"


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"


def refuse_missing_numbers(source: str, files: Sequence[Path]) -> None:
    """Files numbered `-0000N-of-0000M` come all or not at all.

    Raises:
        CheckpointError: one is missing; the message names it.
    """
    present = {path.name for path in files}
    for path in files:
        match = NUMBERED.match(path.name)
        if match is None:
            continue
        width = len(match["number"])
        for number in range(1, int(match["count"]) + 1):
            name = f"{match['stem']}-{number:0{width}d}-of-{match['count']}{path.suffix}"
            if name not in present:
                alone = len(files) == 1
                raise CheckpointError(
                    f"{source}: missing {name}",
                    hint="this is one file of several: name their folder"
                    if alone
                    else "finish the download",
                )


def files_of_index(path: Path) -> WeightFiles:
    """The files that the index at `path` names, all of them there.

    Raises:
        CheckpointError: a file is missing; the message names it.
        FormatError: the index is damaged, or names what is no file beside it.
    """
    names = sorted(set(read_weight_index(path).values()))
    for name in names:
        if not (path.parent / name).is_file():
            raise CheckpointError(f"{path.parent}: missing {name}, which {path.name} names")
    return WeightFiles(tuple(path.parent / name for name in names), path)


def read_weight_index(path: Path) -> Mapping[str, str]:
    """The index's `weight_map`: tensor name -> name of the file beside the index.

    Raises:
        FormatError: it is no such JSON.
    """
    weights = read_json_object(path).get("weight_map")
    if not isinstance(weights, dict) or not weights:
        raise FormatError(path, "has no weight_map")
    for name, file in weights.items():
        if not isinstance(file, str) or file_name_problem(file):
            raise FormatError(path, f"weight_map[{name!r:.80}] is no name of a file beside it")
    return weights
