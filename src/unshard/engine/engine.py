"""The engine: requests in, their outputs out, one step at a time, in one thread."""

from __future__ import annotations

from itertools import accumulate, count

import torch
from torch import Tensor

from unshard.architectures.opt import OPTConfig
from unshard.engine.block_pool import BlockPool, CacheUse
from unshard.engine.block_table import BlockTable
from unshard.engine.leader import LeadingRunner
from unshard.engine.request import GenerationOutput, GenerationRequest, ScoredToken
from unshard.engine.runner import Runner
from unshard.engine.sampler import sample
from unshard.engine.scheduler import Scheduler
from unshard.engine.scoring import score_tokens
from unshard.engine.sequence import Sequence
from unshard.engine.statistics import EngineStatistics
from unshard.engine.step import Chunk, in_row_order
from unshard.engine.tokenizer import Tokenizer
from unshard.engine.validation import validate_request
from unshard.errors import RequestError, UnshardError

SCORED_ROWS = 64
"""Prompt rows scored at once: their logits are (rows, V) fp32, 13 MB at OPT's vocabulary."""


class Engine:
    """Generates for many requests at once. Not thread-safe: see `EngineThread`.

    A step adds a token to every sequence whose prompt is read, and reads on in the prompts of
    others.
    """

    def __init__(
        self, runner: Runner | LeadingRunner, tokenizer: Tokenizer, max_batch: int
    ) -> None:
        """At most `max_batch` sequences run at once, fewer where the cache has no more blocks.
        The cache has room for the longest sequence."""
        self.tokenizer = tokenizer
        self._runner = runner
        self._pool = BlockPool(runner.num_blocks, runner.most_unused)
        self._scheduler = Scheduler(self._pool, max_batch)
        self._arrivals = count()
        self._sequences: dict[str, Sequence] = {}
        self._in_step: list[Chunk] = []
        self._num_steps = self._num_step_tokens = 0
        self._sentence_ends = frozenset(i for mark in ".?!" for i in tokenizer.encode(mark))

    @property
    def config(self) -> OPTConfig:
        return self._runner.config

    @property
    def has_work(self) -> bool:
        return bool(self._sequences)

    @property
    def cache_use(self) -> CacheUse:
        return self._scheduler.cache_use

    @property
    def num_preempted(self) -> int:
        """How often a sequence had to give its blocks back and start again."""
        return self._scheduler.num_preempted

    def statistics(self) -> EngineStatistics:
        """As it is now: some microseconds, so it may be asked for at every step."""
        return EngineStatistics(
            cache=self.cache_use,
            num_running=len(self._scheduler.running),
            num_waiting=len(self._scheduler.waiting),
            batch_size=len(self._in_step) if self.has_work else 0,
            num_steps=self._num_steps,
            num_step_tokens=self._num_step_tokens,
            num_preempted=self.num_preempted,
        )

    def validate(self, request: GenerationRequest) -> None:
        """Whether `request` can ever run, whatever else does; callable from any thread.

        Raises:
            RequestError: it cannot; `param` says why.
        """
        validate_request(request, self.config)

    def add(self, request: GenerationRequest) -> None:
        """Queue `request`; its outputs come from `step`.

        Raises:
            RequestError: it can never run, or its id is in use.
        """
        self.validate(request)
        if request.request_id in self._sequences:
            raise RequestError(f"request id {request.request_id!r} is in use", param="request_id")
        sequence = Sequence(
            request, BlockTable(self._pool), next(self._arrivals), self._sentence_ends
        )
        self._sequences[request.request_id] = sequence
        self._scheduler.add(sequence)

    def cancel(self, request_id: str) -> None:
        """Forget a request and free its blocks; unknown ids are ignored."""
        sequence = self._sequences.pop(request_id, None)
        if sequence is not None:
            self._scheduler.remove(sequence)

    def step(self) -> list[GenerationOutput]:
        """Advance: at most one output for each request, none without work.

        Any exception leaves the sequences of this step half advanced: `fail_step` ends them.
        """
        self._in_step = in_row_order(self._scheduler.next_step())
        if not self._in_step:
            return []
        with torch.inference_mode():
            hidden = self._runner.run(self._in_step)
            self._score_prompts(hidden)
            tokens = self._next_tokens(hidden)
        self._num_steps += 1
        self._num_step_tokens += sum(chunk.num_tokens for chunk in self._in_step)
        for chunk in self._in_step:
            self._scheduler.computed(chunk)
        outputs = [
            self._advance(chunk.sequence, tokens.get(chunk.sequence))
            for chunk in self._in_step
            if chunk.completes
        ]
        for output in outputs:
            if output.finished:
                self.cancel(output.request_id)
        return outputs

    def fail_step(self, error: UnshardError) -> list[GenerationOutput]:
        """End requests of the last step, which raised; the others go on.

        Those that read prompts in it, if any did, else all: the step brought nobody on, so if
        the others were to blame the next step says so.
        """
        present = [c for c in self._in_step if c.sequence.request.request_id in self._sequences]
        blamed = [chunk for chunk in present if not chunk.decodes] or present
        names = [chunk.sequence.request.request_id for chunk in blamed]
        for name in names:
            self._runner.wipe(self._scheduler.discard(self._sequences.pop(name)))
        return [GenerationOutput(name, error=error) for name in names]

    def _score_prompts(self, hidden: Tensor) -> None:
        if not any(chunk.sequence.wants_prompt_scores for chunk in self._in_step):
            return
        per_chunk = hidden.split_with_sizes([chunk.num_kept for chunk in self._in_step])
        for chunk, rows in zip(self._in_step, per_chunk, strict=True):
            if chunk.sequence.wants_prompt_scores:
                chunk.sequence.score_prompt(self._prompt_scores(chunk, rows))

    def _prompt_scores(self, chunk: Chunk, hidden: Tensor) -> list[ScoredToken]:
        """Scores of the tokens that the rows of `chunk` predict, the very first with the first."""
        prompt, params = chunk.sequence.request.prompt_ids, chunk.sequence.request.params
        scored = [ScoredToken(prompt[0], None)] if chunk.start == params.score_from == 0 else []
        num_alternatives = params.logprobs or 0
        # Each row predicts the next token; what the last row predicts is not of the prompt.
        first = max(chunk.start + 1, params.score_from)
        predicted = prompt[first : chunk.end + 1]
        hidden = hidden[first - chunk.start - 1 :]
        for start in range(0, len(predicted), SCORED_ROWS):
            ids = predicted[start : start + SCORED_ROWS]
            logits = self._runner.logits(hidden[start : start + len(ids)])
            scored += score_tokens(logits, ids, num_alternatives)
        return scored

    def _next_tokens(self, hidden: Tensor) -> dict[Sequence, ScoredToken]:
        """The next token of each sequence of the step that wants one, scored where its request
        wants logprobs."""
        ends = accumulate(chunk.num_kept for chunk in self._in_step)
        last_rows = {
            chunk.sequence: end - 1
            for chunk, end in zip(self._in_step, ends, strict=True)
            if chunk.completes and chunk.sequence.wants_tokens
        }
        if not last_rows:
            return {}
        sequences = list(last_rows)
        if len(last_rows) < len(hidden):
            hidden = hidden[list(last_rows.values())]
        logits = self._runner.logits(hidden)
        ids = sample(logits, [sequence.draw for sequence in sequences])
        return dict(zip(sequences, self._scored(logits, ids, sequences), strict=True))

    def _scored(
        self, logits: Tensor, ids: list[int], sequences: list[Sequence]
    ) -> list[ScoredToken]:
        """The token of each row of `logits` (n, V), scored where its request wants logprobs."""
        tokens = [ScoredToken(token_id, None) for token_id in ids]
        wanted = [sequence.request.params.logprobs for sequence in sequences]
        for num_alternatives in {number for number in wanted if number is not None}:
            rows = [row for row, number in enumerate(wanted) if number == num_alternatives]
            scored = score_tokens(logits[rows], [ids[row] for row in rows], num_alternatives)
            for row, token in zip(rows, scored, strict=True):
                tokens[row] = token
        return tokens

    def _advance(self, sequence: Sequence, token: ScoredToken | None) -> GenerationOutput:
        if token is None:
            return sequence.end_without_tokens()
        return sequence.append(token, self.tokenizer.token_bytes(token.token_id))
