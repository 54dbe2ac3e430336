"""A checkpoint behind a link, by the headers of one of its files."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

from unshard.download.pieces import Pieces
from unshard.errors import UnshardError, UsageError
from unshard.index.checkpoint import Checkpoint
from unshard.index.likeness import first_name, open_by_first_file
from unshard.library.stand_ins import ARCHIVES, make_stand_ins


def open_remote(pieces: Pieces, source: str, names: Sequence[str]) -> Checkpoint:
    """The checkpoint of files `names`, which `source` stands for. Asks for two or three ranges
    of the first file, and reads no more from `pieces` afterwards.

    Raises:
        UsageError, CheckpointError, FormatError: no metaseq checkpoint can be made out.
        TransferError, LinkRefusedError: as `Pieces.read`.
    """
    first = first_name(source, names)
    if Path(first).suffix not in ARCHIVES:
        raise UsageError(f"{first}: only torch's files say in their headers what the model is")
    with tempfile.TemporaryDirectory(prefix="unshard-plan-") as temporary:
        empty, folder = Path(temporary, "empty"), Path(temporary, "headers")
        empty.mkdir()
        try:
            make_stand_ins(pieces, [first], folder, empty, workers=1)
            return open_by_first_file(source, folder, names)
        except UnshardError as error:
            error.message = error.message.replace(f"{folder}/", "")
            raise
