"""Comparing what was read with the checksums that the source files themselves state.

`torch.save` stores a CRC-32 with every record of its archive. A reshard reads every record
in pieces, in the order of its own work; put together, they must give that checksum.
"""

from __future__ import annotations

import os
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence

from unshard.errors import FormatError
from unshard.execute.checksums import RangeChecksums, Summed, crc32
from unshard.plan.copy_plan import CopyPlan
from unshard.tensors import StoredRecord


class SourceCheck:
    """Collects checksums of reads; a record is judged once all that is read of it was."""

    def __init__(self, plan: CopyPlan) -> None:
        self._records: dict[str, list[StoredRecord]] = {}
        for record in plan.stored:
            self._records.setdefault(record.path, []).append(record)
        for records in self._records.values():
            records.sort(key=lambda record: record.offset)
        self._starts = {
            path: [record.offset for record in records] for path, records in self._records.items()
        }
        self._missing: dict[StoredRecord, int] = {}
        for piece in {piece for tensor in plan.sources.values() for piece in tensor.ranges()}:
            found = self._record_at(piece.path, piece.offset)
            if found is not None:
                self._missing[found] = self._missing.get(found, 0) + piece.length
        self._sums: dict[StoredRecord, RangeChecksums] = {}

    def unread(self) -> Iterator[StoredRecord]:
        """Records that nothing of the plan reads."""
        for records in self._records.values():
            yield from (record for record in records if record not in self._missing)

    def add(
        self, reads: Mapping[str, Sequence[Summed]], *, judged: bool = False
    ) -> list[StoredRecord]:
        """Takes in ranges that were read, by path; returns the records that this completed.

        `judged` reads are of an earlier run: what they alone complete was judged then, and may
        be deleted by now.

        Raises:
            FormatError: a record's bytes are not those that its file was written with.
        """
        done = []
        for path, ranges in reads.items():
            for offset, length, crc in ranges:
                record = self._record_at(path, offset)
                if record is None or record not in self._missing:
                    continue
                self._sums.setdefault(record, RangeChecksums()).add(offset, length, crc)
                self._missing[record] -= length
                if not self._missing[record]:
                    sums = self._sums.pop(record)
                    if not judged:
                        _judge(record, sums)
                    done.append(record)
        return done

    def _record_at(self, path: str, offset: int) -> StoredRecord | None:
        at = bisect_right(self._starts.get(path, ()), offset) - 1
        if at < 0:
            return None
        record = self._records[path][at]
        return record if offset < record.offset + record.length else None


def _judge(record: StoredRecord, sums: RangeChecksums) -> None:
    """Adds what nobody reads, the padding between and behind, and compares."""
    end = record.offset
    for offset, length, _ in sorted(sums):
        _add_unread(record, sums, end, offset)
        end = offset + length
    _add_unread(record, sums, end, record.offset + record.length)
    if sums.of(record.offset, record.length) != record.crc32:
        raise FormatError(
            record.path,
            f"record {record.name} is damaged: its bytes are not those that the file was "
            "written with (CRC-32)",
            hint="download the file again",
        )


def _add_unread(record: StoredRecord, sums: RangeChecksums, start: int, stop: int) -> None:
    if stop > start:
        with open(record.path, "rb") as file:  # noqa: PTH123  (paths are plain strings here)
            data = os.pread(file.fileno(), stop - start, start)
        sums.add(start, len(data), crc32(data))
