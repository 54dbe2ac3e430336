"""The engine: requests in, their outputs out, one step at a time, in one thread."""

from __future__ import annotations

from collections.abc import Sequence as Rows

import torch
from torch import Tensor

from unshard.architectures.opt import OPTConfig
from unshard.engine.request import GenerationOutput, GenerationRequest, ScoredToken
from unshard.engine.runner import Runner
from unshard.engine.sampler import sample
from unshard.engine.scheduler import Scheduler
from unshard.engine.scoring import score_tokens
from unshard.engine.sequence import Sequence
from unshard.engine.tokenizer import Tokenizer
from unshard.engine.validation import validate_request
from unshard.errors import RequestError, UnshardError

MAX_PREFILL_TOKENS = 2048
SCORED_ROWS = 64
"""Prompt rows scored at once: their logits are (rows, V) fp32, 13 MB at OPT's vocabulary."""


class Engine:
    """Generates for many requests at once. Not thread-safe: see `EngineThread`.

    A step either reads prompts (those that just got a slot) or adds one token to every
    running sequence; reading prompts comes first.
    """

    def __init__(self, runner: Runner, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        self._runner = runner
        self._scheduler = Scheduler(runner.num_slots, MAX_PREFILL_TOKENS)
        self._sequences: dict[str, Sequence] = {}
        self._in_step: list[Sequence] = []

    @property
    def config(self) -> OPTConfig:
        return self._runner.config

    @property
    def has_work(self) -> bool:
        return bool(self._sequences)

    @property
    def num_free_slots(self) -> int:
        return self._scheduler.num_free_slots

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
        sequence = Sequence(request)
        self._sequences[request.request_id] = sequence
        self._scheduler.add(sequence)

    def cancel(self, request_id: str) -> None:
        """Forget a request and free its slot; unknown ids are ignored."""
        sequence = self._sequences.get(request_id)
        if sequence is not None:
            self._release(sequence)

    def step(self) -> list[GenerationOutput]:
        """Advance: at most one output for each request, none without work.

        Any exception leaves the sequences of this step half advanced: `fail_step` ends them.
        """
        admitted = self._scheduler.admit()
        self._in_step = admitted or list(self._scheduler.running)
        if not self._in_step:
            return []
        with torch.inference_mode():
            outputs = self._prefill(admitted) if admitted else self._decode(self._in_step)
        for sequence, output in zip(self._in_step, outputs, strict=True):
            if output.finished:
                self._release(sequence)
        return outputs

    def fail_step(self, error: UnshardError) -> list[GenerationOutput]:
        """End the requests of the last step, which raised; the others go on."""
        failed = [s for s in self._in_step if s.request.request_id in self._sequences]
        for sequence in failed:
            self._release(sequence)
        return [GenerationOutput(s.request.request_id, error=error) for s in failed]

    def _prefill(self, sequences: list[Sequence]) -> list[GenerationOutput]:
        first_slot = len(self._scheduler.running) - len(sequences)
        hidden = self._runner.prefill(sequences, first_slot)
        per_sequence = hidden.split_with_sizes([len(sequence.token_ids) for sequence in sequences])
        prompts = [
            self._score_prompt(sequence, rows) if sequence.request.params.score_prompt else None
            for sequence, rows in zip(sequences, per_sequence, strict=True)
        ]
        last_rows = torch.stack([rows[-1] for rows in per_sequence])
        return self._advance(sequences, last_rows, prompts)

    def _decode(self, sequences: list[Sequence]) -> list[GenerationOutput]:
        return self._advance(sequences, self._runner.decode(sequences), [None] * len(sequences))

    def _score_prompt(self, sequence: Sequence, hidden: Tensor) -> tuple[ScoredToken, ...]:
        first, *predicted = sequence.token_ids
        scored = [ScoredToken(first, None)]
        num_alternatives = sequence.request.params.logprobs or 0
        # Each row predicts the next token; the last row's is not part of the prompt.
        for start in range(0, len(predicted), SCORED_ROWS):
            ids = predicted[start : start + SCORED_ROWS]
            logits = self._runner.logits(hidden[start : start + len(ids)])
            scored += score_tokens(logits, ids, num_alternatives)
        return tuple(scored)

    def _advance(
        self,
        sequences: list[Sequence],
        hidden: Tensor,
        prompts: Rows[tuple[ScoredToken, ...] | None],
    ) -> list[GenerationOutput]:
        """Choose a token for each sequence that wants one, from the last `hidden` states."""
        wanting = [row for row, sequence in enumerate(sequences) if sequence.wants_tokens]
        if len(wanting) < len(sequences):
            hidden = hidden[wanting]
        tokens = dict(
            zip(wanting, self._next_tokens([sequences[r] for r in wanting], hidden), strict=True)
        )
        return [
            sequence.append(
                tokens[row], self.tokenizer.token_bytes(tokens[row].token_id), prompts[row]
            )
            if row in tokens
            else sequence.end_without_tokens(prompts[row])
            for row, sequence in enumerate(sequences)
        ]

    def _next_tokens(self, sequences: list[Sequence], hidden: Tensor) -> list[ScoredToken]:
        """The next token of each sequence, scored where its request wants logprobs."""
        if not sequences:
            return []
        logits = self._runner.logits(hidden)
        ids = sample(logits, [sequence.draw for sequence in sequences])
        tokens = [ScoredToken(token_id, None) for token_id in ids]
        for row, sequence in enumerate(sequences):
            num_alternatives = sequence.request.params.logprobs
            if num_alternatives is not None:
                (tokens[row],) = score_tokens(logits[row : row + 1], [ids[row]], num_alternatives)
        return tokens

    def _release(self, sequence: Sequence) -> None:
        del self._sequences[sequence.request.request_id]
        move = self._scheduler.remove(sequence)
        if move is not None:
            source, destination = move
            moved = self._scheduler.running[destination]
            self._runner.move(source, destination, moved.num_cached)
