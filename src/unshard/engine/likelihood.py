"""How likely a text is to a model, in the units that people compare."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Likelihood:
    """The score of one text, or of several together.

    `log_likelihood` is in nats: the sum of the natural logs of the tokens' probabilities. The
    `</s>` in front of a text is given, so it is not one of its tokens.
    """

    num_tokens: int = 0
    num_bytes: int = 0
    """Of the text in UTF-8."""
    num_chars: int = 0
    log_likelihood: float = 0.0

    def __add__(self, other: Likelihood) -> Likelihood:
        return Likelihood(
            self.num_tokens + other.num_tokens,
            self.num_bytes + other.num_bytes,
            self.num_chars + other.num_chars,
            self.log_likelihood + other.log_likelihood,
        )

    @property
    def perplexity(self) -> float | None:
        """Of a token; None without tokens."""
        if not self.num_tokens:
            return None
        nats = -self.log_likelihood / self.num_tokens
        return math.exp(nats) if nats < math.log(1e300) else None

    @property
    def bits_per_byte(self) -> float | None:
        """None without text."""
        return self._bits / self.num_bytes if self.num_bytes else None

    @property
    def bits_per_char(self) -> float | None:
        """None without text."""
        return self._bits / self.num_chars if self.num_chars else None

    @property
    def _bits(self) -> float:
        return -self.log_likelihood / math.log(2)
