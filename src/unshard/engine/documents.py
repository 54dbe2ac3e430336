"""Scoring documents: the prompt path alone, no token is generated."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from unshard.architectures.opt import BOS_TOKEN_ID, OPTConfig
from unshard.engine.block_pool import BLOCK_TOKENS
from unshard.engine.jobs import Job
from unshard.engine.likelihood import Likelihood
from unshard.engine.request import GenerationOutput, GenerationRequest, SamplingParams
from unshard.engine.scheduler import STEP_TOKENS
from unshard.engine.tokenizer import Tokenizer
from unshard.engine.windows import windows
from unshard.errors import FormatError, UnshardError
from unshard.library.input_lines import InputLine

MAX_BATCH = 64
"""Documents read in one step: as many of a line's length as fill it."""


def window_size(config: OPTConfig) -> int:
    """Tokens of a document that the model reads at once: `</s>` is in front of them."""
    return config.max_positions - 1


def cache_sequences(config: OPTConfig) -> int:
    """Sequences of full length whose cache lets every step be full: a step's tokens, a document
    that is partly read, and a block of each document that is partly used."""
    tokens = STEP_TOKENS + config.max_positions + MAX_BATCH * BLOCK_TOKENS
    return -(-tokens // config.max_positions)


class DocumentJob(Job):
    """The text of one line, scored in windows that each begin with `</s>`."""

    def __init__(self, line: InputLine, tokenizer: Tokenizer, size: int, stride: int) -> None:
        """`size` and `stride` of the windows, in tokens: see `windows`."""
        super().__init__(line)
        self._size = size
        self._stride = stride
        self._logprobs: list[float] = []
        """A sum for each window that is done, in any order."""
        self._num_scored = 0
        self._text, self._ids = "", list[int]()
        if self.error is None:
            try:
                self._text = line.text("text")
            except FormatError as error:
                self.error = error
            # As it is: line ends and all, so that the bytes counted are the bytes scored.
            self._ids = tokenizer.encode(self._text)

    @property
    def share_done(self) -> float:
        return self._num_scored / max(1, len(self._ids))

    @property
    def likelihood(self) -> Likelihood:
        """Of the whole text, once it is done without an error."""
        num_bytes, num_chars = len(self._text.encode()), len(self._text)
        # fsum: exact, so that it does not matter which window was done first.
        return Likelihood(len(self._ids), num_bytes, num_chars, math.fsum(self._logprobs))

    def requests(self) -> Iterator[GenerationRequest]:
        for window in windows(len(self._ids), self._size, self._stride):
            ids = (BOS_TOKEN_ID, *self._ids[window.start : window.end])
            first = 1 + window.first - window.start
            params = SamplingParams(max_tokens=0, score_prompt=True, score_from=first)
            yield GenerationRequest(f"{self.line.where}:{window.start}", ids, params)

    def take(self, output: GenerationOutput) -> None:
        super().take(output)
        logprobs = [token.logprob for token in output.prompt_tokens or () if token.logprob]
        self._num_scored += len(output.prompt_tokens or ())
        self._logprobs.append(math.fsum(logprobs))
        if not math.isfinite(self._logprobs[-1]):
            self.error = UnshardError(
                "the model computed NaN logits",
                hint="the weights may be damaged, or the dtype's range too small: try bf16 or fp32",
            )

    def answer(self) -> dict[str, object]:
        return super().answer() if self.error else likelihood_fields(self.likelihood)


def likelihood_fields(found: Likelihood) -> dict[str, object]:
    """As in JSON."""
    return {
        "tokens": found.num_tokens,
        "bytes": found.num_bytes,
        "chars": found.num_chars,
        "log_likelihood": found.log_likelihood,
        "perplexity": found.perplexity,
        "bits_per_byte": found.bits_per_byte,
        "bits_per_char": found.bits_per_char,
    }


def likelihood_of(fields: Mapping[str, Any]) -> Likelihood:
    """Back from JSON.

    Raises:
        FormatError: a field is missing.
    """
    names = ("tokens", "bytes", "chars", "log_likelihood")
    if missing := [name for name in names if not isinstance(fields.get(name), int | float)]:
        raise FormatError(f"the answer to {fields.get('id')!r}", f"{missing[0]} is no number")
    return Likelihood(*(fields[name] for name in names))
