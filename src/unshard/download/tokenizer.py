"""OPT's tokenizer beside its weights: two files that are fetched, and one that is generated."""

from __future__ import annotations

from pathlib import Path

from unshard import releases
from unshard.download.disk import disk_errors
from unshard.download.journal import Journal
from unshard.download.partial import Partial
from unshard.download.pool import download
from unshard.download.retry import RetryPolicy
from unshard.download.url import PresignedTemplate
from unshard.finished import Finished
from unshard.manifest import Manifest
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
    path = directory / name
    with disk_errors(path):
        directory.mkdir(parents=True, exist_ok=True)
        if path.is_file() and path.read_bytes() == content:
            return
    with (
        Journal(directory) as journal,
        Partial(directory, name, releases.TOKENIZER_DIGESTS[name].algorithm) as partial,
    ):
        partial.restart()
        partial.append(content)
        status = partial.publish()
        journal.finish(name, Finished(status.st_size, status.st_mtime_ns, partial.digest))
