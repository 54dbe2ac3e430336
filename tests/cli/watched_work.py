"""A download as a display sees it, with a clock that tests turn."""

from __future__ import annotations

from unshard.progress import Busy, Files


class WatchedWork:
    """`num_connections` equal connections, of which the slots in `checks` only hash."""

    def __init__(self, num_files: int = 992) -> None:
        self.now = 0.0
        self.num_files = num_files
        self.num_whole = 0
        self.received_bytes = 0
        self.busy: dict[int, Busy] = {}

    def clock(self) -> float:
        return self.now

    def files(self) -> Files:
        busy = tuple(self.busy[slot] for slot in sorted(self.busy))
        return Files(self.num_whole, self.num_files, self.received_bytes, busy)

    def connect(self, slot: int, num_bytes: int = 0, *, is_check: bool = False) -> None:
        name = f"reshard-model_part-{slot % 8}-shard{slot}.pt"
        self.busy[slot] = Busy(slot, (name,), num_bytes, 0, is_check)

    def receive(self, num_bytes: int) -> int:
        self.received_bytes += num_bytes
        return num_bytes
