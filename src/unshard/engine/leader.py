"""The runner of rank 0: what it computes, the other ranks compute with it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from collections.abc import Sequence as Rows
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from torch import Tensor

from unshard.engine.messages import IDLE, STOP, LogitsMessage, StepMessage, WipeMessage
from unshard.engine.runner import Runner
from unshard.engine.step import Chunk
from unshard.errors import WorkerLostError
from unshard.parallel.place import SILENCE_SECONDS
from unshard.parallel.watch import broken_group

if TYPE_CHECKING:  # torch.distributed is imported where there are ranks
    from unshard.parallel.ranks import Ranks

Verdict = Callable[[], WorkerLostError | None]
"""Which rank was lost, as far as that is known; may wait for it a little."""


class LeadingRunner:
    """A `Runner` whose steps are told to the followers first.

    A step that fails here may have left the others in the middle of it, so the group is over: this
    and every later call raise `WorkerLostError`.
    """

    def __init__(self, runner: Runner, ranks: Ranks, verdict: Verdict) -> None:
        self.config = runner.config
        self.num_blocks = runner.num_blocks
        self.most_unused = runner.most_unused
        self._runner = runner
        self._ranks = ranks
        self._verdict = verdict
        self._turn = threading.Lock()
        self._lost: WorkerLostError | None = None
        self._closed = threading.Event()
        threading.Thread(target=self._keep_alive, daemon=True).start()

    def run(self, chunks: Rows[Chunk]) -> Tensor:
        """See `Runner.run`."""
        message = StepMessage.of(chunks)
        with self._together(message.numbers()):
            return self._runner.compute(message.token_ids, message.layout, message.num_kept)

    def logits(self, hidden: Tensor) -> Tensor:
        """See `Runner.logits`."""
        if not self._runner.shares_logits:
            return self._runner.logits(hidden)
        with self._together(LogitsMessage(len(hidden)).numbers()):
            return self._runner.logits(self._ranks.spread(hidden.contiguous()))

    def wipe(self, blocks: Rows[int]) -> None:
        """See `Runner.wipe`; of a group that is over there is nothing to wipe."""
        with suppress(WorkerLostError), self._together(WipeMessage(tuple(blocks)).numbers()):
            self._runner.wipe(blocks)

    def close(self) -> bool:
        """Tell the followers to end; whether they heard it."""
        self._closed.set()
        with suppress(WorkerLostError), self._together([STOP]):
            return True
        return False

    @contextmanager
    def _together(self, message: Rows[int]) -> Iterator[None]:
        with self._turn:
            if self._lost is not None:
                raise self._lost
            try:
                self._ranks.send(message)
                yield
            # Whatever it was, the others do not know of it.
            except BaseException as error:
                if not isinstance(error, Exception):
                    self._lost = WorkerLostError("a step of the group was interrupted")
                    raise
                self._lost = self._verdict() or broken_group(self._ranks.size, error)
                raise self._lost from error

    def _keep_alive(self) -> None:
        """Say something now and then, so that silence means that a rank is lost."""
        while not self._closed.wait(SILENCE_SECONDS / 10):
            if not self._turn.locked():
                with suppress(WorkerLostError), self._together([IDLE]):
                    pass
