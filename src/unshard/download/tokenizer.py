"""OPT's tokenizer beside its weights: two files that are fetched, and one that is generated."""

from __future__ import annotations

import os
from pathlib import Path

from unshard import releases
from unshard.disk import sync_directory
from unshard.download.disk import disk_errors
from unshard.download.pool import download
from unshard.download.retry import RetryPolicy
from unshard.download.url import PresignedTemplate
from unshard.manifest import PARTIAL_SUFFIX, Manifest
from unshard.progress import Progress

PATTERN = "gpt2-*"
"""The names of the two that are fetched."""
DICT = "dict.txt"


def fetch_tokenizer(
    directory: str | Path,
    *,
    assets: str = releases.ASSETS,
    progress: Progress | None = None,
    retry: RetryPolicy | None = None,
) -> tuple[str, ...]:
    """Make `directory` hold the tokenizer's files of every OPT model; their names.

    `assets` is the URL of the folder that has `gpt2-vocab.json` and `gpt2-merges.txt`; it is not
    asked for files that are there and right. `dict.txt` is generated first.

    Raises:
        TransferError, LinkRefusedError, DigestError: the two cannot be had there.
        NoSpaceError, DestinationError: as `download`.
    """
    directory = Path(directory)
    digests = dict(releases.TOKENIZER_DIGESTS)
    _write(directory, DICT, releases.dict_txt(releases.OPT_VOCAB_SIZE))
    fetched = {name: digest for name, digest in digests.items() if name != DICT}
    download(
        PresignedTemplate.parse(assets + PATTERN),
        Manifest(fetched, "OPT's tokenizer"),
        directory,
        progress=progress,
        retry=retry,
    )
    return tuple(digests)


def _write(directory: Path, name: str, content: bytes) -> None:
    """Give the file its name only once it is whole; one that is right is left alone."""
    path, partial = directory / name, directory / (name + PARTIAL_SUFFIX)
    with disk_errors(path):
        directory.mkdir(parents=True, exist_ok=True)
        if path.is_file() and path.read_bytes() == content:
            return
        with open(partial, "wb", opener=_open) as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
        sync_directory(directory)


def _open(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666)
