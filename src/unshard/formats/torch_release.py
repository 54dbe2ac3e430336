"""What differs between the archives of torch 1.13 and of today's torch.

The objects in them are written alike; the records around them are not.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from unshard.formats import serialization_id
from unshard.formats.torch_zip_layout import VERSION_RECORD

Literals = Mapping[str, bytes]


@dataclass(frozen=True, slots=True, eq=False)
class TorchRelease:
    """A torch release and the numpy that went with it, as far as their files show."""

    name: str
    before_storages: Literals
    """Records between the pickle and the storages."""
    after_storages: Literals
    sorts_keys: bool
    """Whether storages lie in the order of their keys as strings (0, 1, 10, 2)."""
    numpy_core: str
    """The package in which numpy keeps the functions that its pickles call."""

    def ordered(self, keys: Iterable[str]) -> list[str]:
        """Storage keys, given in the order of pickling, in the order of their records."""
        return sorted(keys) if self.sorts_keys else list(keys)


TORCH_1_13 = TorchRelease(
    name="1.13",
    before_storages={},
    after_storages={"version": VERSION_RECORD},
    sorts_keys=True,
    numpy_core="numpy.core",
)
TORCH_2_13 = TorchRelease(
    name="2.13",
    before_storages={".format_version": b"1", ".storage_alignment": b"64", "byteorder": b"little"},
    after_storages={
        "version": VERSION_RECORD,
        serialization_id.RECORD: bytes(serialization_id.NUM_BYTES),
    },
    sorts_keys=False,
    numpy_core="numpy._core",
)
"""The content of its last record follows from all others: it is filled in when they are known."""

BY_NAME = {release.name: release for release in (TORCH_1_13, TORCH_2_13)}
