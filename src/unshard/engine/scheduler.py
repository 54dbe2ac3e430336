"""Who runs: admission in the order of arrival, by free slots."""

from __future__ import annotations

from unshard.engine.sequence import Sequence


class Scheduler:
    """Waiting and running sequences. A running sequence's place in `running` is its slot in
    the cache, so running ones always fill the first slots."""

    def __init__(self, num_slots: int, max_prefill_tokens: int) -> None:
        """`max_prefill_tokens` bounds how many prompt tokens one step admits: it bounds the
        memory of a step. A longer prompt is admitted alone."""
        self.waiting: dict[Sequence, None] = {}
        """In the order of arrival; a dict, so that thousands are cancelled in no time."""
        self.running: list[Sequence] = []
        self._num_slots = num_slots
        self._max_prefill_tokens = max_prefill_tokens

    @property
    def num_free_slots(self) -> int:
        return self._num_slots - len(self.running)

    def add(self, sequence: Sequence) -> None:
        """Let `sequence` wait for a slot."""
        self.waiting[sequence] = None

    def admit(self) -> list[Sequence]:
        """Give free slots to waiting sequences, the first come first; the newly running."""
        admitted: list[Sequence] = []
        budget = self._max_prefill_tokens
        while self.waiting and self.num_free_slots:
            sequence = next(iter(self.waiting))
            budget -= len(sequence.token_ids)
            if budget < 0 and admitted:
                break
            del self.waiting[sequence]
            self.running.append(sequence)
            admitted.append(sequence)
        return admitted

    def remove(self, sequence: Sequence) -> tuple[int, int] | None:
        """Forget `sequence`. The last running one takes over its slot: then (from, to) is
        which slot has to move where."""
        if sequence in self.waiting:
            del self.waiting[sequence]
            return None
        slot = self.running.index(sequence)
        last = self.running.pop()
        if last is sequence:
            return None
        self.running[slot] = last
        return len(self.running), slot
