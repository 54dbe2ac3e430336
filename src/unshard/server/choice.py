"""One choice of a call as it grows, in no dialect yet."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from unshard.engine.request import FinishReason, GenerationOutput, ScoredToken
from unshard.server.prompt import Prompt
from unshard.server.served import Tokenizer
from unshard.server.token_places import PlacedToken, TokenPlaces, places_in_prompt


@dataclass(frozen=True, slots=True)
class Piece:
    """What is new in a choice, or all of it."""

    index: int
    text: str
    tokens: tuple[PlacedToken, ...] | None
    """None: nobody asked for them."""
    finish_reason: FinishReason | None


class ChoiceWriter:
    """Turns the outputs of one request into what is new in its choice.

    Streamed or not, an answer is made of these pieces, so both are the same.
    """

    def __init__(
        self,
        index: int,
        prompt: Prompt,
        tokenizer: Tokenizer,
        *,
        echo: bool,
        reports_tokens: bool,
    ) -> None:
        self.index = index
        self.prompt = prompt
        self.num_tokens = 0
        """Tokens generated up to now."""
        self.sum_logprobs = 0.0
        """Of these tokens, `</s>` too; 0 where the engine reports none."""
        self._tokenizer = tokenizer
        self._echo_due = echo
        self._text_length = 0
        text_start = len(prompt.text) if echo else 0
        self._places = TokenPlaces(tokenizer, text_start) if reports_tokens else None

    @property
    def mean_logprob(self) -> float:
        """Per token generated; 0 without any."""
        return self.sum_logprobs / max(1, self.num_tokens)

    def advance(self, output: GenerationOutput) -> Piece | None:
        """What `output` adds, or None when there is nothing to tell yet."""
        text = self._echo() + output.text
        self._text_length += len(text)
        self.num_tokens += len(output.tokens)
        self.sum_logprobs += sum(token.logprob or 0.0 for token in output.tokens)
        tokens = self._tokens(output)
        if not (text or tokens or output.finished):
            return None
        return Piece(self.index, text, tokens, output.finish_reason)

    def _echo(self) -> str:
        text = self.prompt.text if self._echo_due else ""
        self._echo_due = False
        return text

    def _tokens(self, output: GenerationOutput) -> tuple[PlacedToken, ...] | None:
        if self._places is None:
            return None
        new = self._places.advance(output.tokens, self._text_length, finished=output.finished)
        if output.prompt_tokens is None:
            return new
        shown = list(output.prompt_tokens)
        if self.prompt.hides_bos:
            # As of OpenAI's, nothing that is shown predicts the first.
            shown[:2] = [ScoredToken(token.token_id, None) for token in shown[1:2]]
        return places_in_prompt(shown, self._tokenizer) + new


def join_pieces(pieces: Iterable[Piece]) -> Piece:
    """The whole of a choice from all that was new in it, in order."""
    parts = list(pieces)
    placed = [part.tokens for part in parts if part.tokens is not None]
    return Piece(
        index=parts[0].index,
        text="".join(part.text for part in parts),
        tokens=tuple(token for tokens in placed for token in tokens) if placed else None,
        finish_reason=parts[-1].finish_reason,
    )
