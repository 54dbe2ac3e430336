"""Who computes what in the next step: first come, first served, as far as the cache's blocks go.

Every step gives each decoding sequence its token, and the tokens that are left of the step to
those still reading their prompts. So a long prompt is read in chunks beside the others' decoding.
"""

from __future__ import annotations

from bisect import insort

from unshard.engine.block_pool import BLOCK_TOKENS, BlockPool, CacheUse
from unshard.engine.sequence import Sequence
from unshard.engine.step import Chunk

STEP_TOKENS = 2048
"""New tokens of a step in which nobody decodes: bounds a step's memory."""
SHARED_STEP_TOKENS = 256
"""New tokens of a step in which somebody decodes: bounds how late the next tokens are. A CPU
multiplies no faster with more rows."""


class Scheduler:
    """Waiting and running sequences, and the blocks that the running ones hold.

    A sequence is admitted when the cache has blocks for all its tokens, and takes one more each
    time its text fills the last. When there is none left the latest arrived gives all of its
    blocks back, waits, and is computed again: the earliest arrived always goes on.
    """

    def __init__(self, pool: BlockPool, max_running: int) -> None:
        """`pool` has room for the longest sequence."""
        self.waiting: dict[Sequence, None] = {}
        """In the order of arrival; a dict, so that thousands are cancelled in no time."""
        self.running: list[Sequence] = []
        """In the order of arrival."""
        self.num_preempted = 0
        self._pool = pool
        self._max_running = max_running
        self._num_started_tokens = 0
        self._num_shared_tokens = 0

    @property
    def cache_use(self) -> CacheUse:
        return CacheUse(
            num_blocks=self._pool.num_blocks,
            num_held=self._pool.num_blocks - self._pool.num_free,
            num_started_tokens=self._num_started_tokens,
            num_shared_tokens=self._num_shared_tokens,
        )

    def add(self, sequence: Sequence) -> None:
        """Let `sequence`, the latest arrived, wait for its turn."""
        self.waiting[sequence] = None

    def next_step(self) -> list[Chunk]:
        """What to compute next, at most one chunk of each running sequence; empty only when there
        is no sequence at all."""
        preempted = self._make_room_to_decode()
        decoding = [Chunk.next_of(s, 1) for s in self.running if s.num_uncached == 1]
        room = SHARED_STEP_TOKENS - len(decoding) if decoding else STEP_TOKENS
        room = max(room, BLOCK_TOKENS)
        reading: list[Chunk] = []
        for sequence in self.running:
            if sequence.num_uncached > 1 and room:
                reading.append(Chunk.next_of(sequence, room))
                room -= reading[-1].num_tokens
        if not preempted:
            reading += self._admit(room)
        return decoding + reading

    def computed(self, chunk: Chunk) -> None:
        """`chunk` is in the cache: what it filled may be shared."""
        chunk.sequence.num_cached = chunk.end
        chunk.sequence.table.index(chunk.sequence.token_ids, chunk.end)

    def remove(self, sequence: Sequence) -> None:
        """Forget `sequence` and give its blocks back."""
        self._take_out(sequence)
        sequence.table.clear()

    def discard(self, sequence: Sequence) -> list[int]:
        """Forget `sequence`, whose step failed, and all that it computed; the blocks that nobody
        holds any more, which may hold anything."""
        self._take_out(sequence)
        return sequence.table.discard()

    def _take_out(self, sequence: Sequence) -> None:
        if sequence in self.waiting:
            del self.waiting[sequence]
        else:
            self.running.remove(sequence)

    def _make_room_to_decode(self) -> bool:
        """Give every sequence a block for its newest token, the first arrived first; whether one
        was preempted for it."""
        before, place = self.num_preempted, 0
        while place < len(self.running):
            sequence = self.running[place]
            if not sequence.table.num_missing(len(sequence.token_ids)):
                place += 1
            elif self._pool.num_free:
                sequence.table.grow(len(sequence.token_ids))
            else:
                self._preempt(self.running.pop())
        return self.num_preempted > before

    def _preempt(self, sequence: Sequence) -> None:
        self.num_preempted += 1
        sequence.restart()
        # Back to its place in the order of arrival: ahead of nearly all that wait.
        self.waiting = dict.fromkeys(sorted([*self.waiting, sequence], key=_arrival))

    def _admit(self, room: int) -> list[Chunk]:
        """Start waiting sequences while there are blocks, and tokens left in the step."""
        chunks: list[Chunk] = []
        if not self.waiting:
            return chunks
        being_filled = {s.table.next_key(s.token_ids) for s in self.running}
        for sequence in list(self.waiting):
            if not room or len(self.running) == self._max_running:
                break
            table, ids = sequence.table, sequence.token_ids
            if not sequence.wants_prompt_scores:
                table.share(table.cached_prefix(ids))
                key = table.next_key(ids)
                if key is not None and key in being_filled:
                    # Another computes what this one goes on with; soon it can be shared.
                    table.clear()
                    continue
            if not self._fits(sequence):
                table.clear()
                break
            self._start(sequence)
            being_filled.add(table.next_key(ids))
            chunks.append(Chunk.next_of(sequence, room))
            room -= chunks[-1].num_tokens
        return chunks

    def _fits(self, sequence: Sequence) -> bool:
        """Whether there are blocks for all tokens of `sequence`, and then one for each that runs:
        who starts now shall not be preempted at once."""
        missing = sequence.table.num_missing(len(sequence.token_ids))
        return missing + len(self.running) <= self._pool.num_free

    def _start(self, sequence: Sequence) -> None:
        sequence.num_cached = len(sequence.table.blocks) * BLOCK_TOKENS
        sequence.table.grow(len(sequence.token_ids))
        self._num_started_tokens += len(sequence.token_ids)
        self._num_shared_tokens += sequence.num_cached
        del self.waiting[sequence]
        insort(self.running, sequence, key=_arrival)


def _arrival(sequence: Sequence) -> int:
    return sequence.arrival
