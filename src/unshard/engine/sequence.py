"""One request on its way through the engine: its tokens so far and its text."""

from __future__ import annotations

import secrets
from collections.abc import Iterable

from unshard.architectures.opt import EOS_TOKEN_ID
from unshard.engine.block_table import BlockTable
from unshard.engine.detokenizer import Detokenizer
from unshard.engine.history import History
from unshard.engine.request import FinishReason, GenerationOutput, GenerationRequest, ScoredToken
from unshard.engine.sampler import Draw
from unshard.engine.stops import StopMatcher


class Sequence:
    """State of one request; `token_ids` are the prompt's and the generated ones."""

    __slots__ = (
        "_draw_seed",
        "_history",
        "_prompt_scores",
        "_stops",
        "_text",
        "arrival",
        "num_cached",
        "request",
        "table",
        "token_ids",
    )

    def __init__(
        self,
        request: GenerationRequest,
        table: BlockTable,
        arrival: int,
        sentence_ends: frozenset[int] = frozenset(),
    ) -> None:
        """`table` is its own and empty; `arrival` is larger than those of earlier requests;
        `sentence_ends` as for `History`."""
        self.request = request
        self.table = table
        self.arrival = arrival
        self.token_ids = list(request.prompt_ids)
        self.num_cached = 0
        """How many of the tokens have their keys and values in the cache."""
        self._prompt_scores: list[ScoredToken] | None = [] if request.params.score_prompt else None
        """Those known up to now; None when nobody asked, or once they were told."""
        seed = request.params.seed
        self._draw_seed = secrets.randbits(64) if seed is None else seed
        self._history = History(request.params, request.prompt_ids, sentence_ends)
        self._text = Detokenizer()
        self._stops = StopMatcher(request.params.stop)

    @property
    def num_uncached(self) -> int:
        return len(self.token_ids) - self.num_cached

    @property
    def wants_tokens(self) -> bool:
        """Whether a token may follow those it has."""
        return self._history.num_generated < self.request.params.max_tokens

    @property
    def draw(self) -> Draw:
        """What decides the next token."""
        request, position = self.request, len(self.token_ids)
        return Draw(request.params, self._draw_seed, request.choice, position, self._history)

    @property
    def _may_end(self) -> bool:
        """Whether the last token may end the text before `max_tokens`."""
        return self._history.num_generated > self.request.params.min_tokens

    @property
    def wants_prompt_scores(self) -> bool:
        return self._prompt_scores is not None

    def score_prompt(self, tokens: Iterable[ScoredToken]) -> None:
        """Take the scores of the next tokens of the prompt, if they are wanted."""
        if self._prompt_scores is not None:
            self._prompt_scores.extend(tokens)

    def restart(self) -> None:
        """Give all blocks back; what was in them has to be computed again."""
        self.table.clear()
        self.num_cached = 0
        if self._prompt_scores is not None:
            self._prompt_scores.clear()

    def append(self, token: ScoredToken, data: bytes) -> GenerationOutput:
        """Take the next token, whose text is `data`; say what is new."""
        self.token_ids.append(token.token_id)
        self._history.add(token.token_id)
        if token.token_id == EOS_TOKEN_ID:
            return self._end("", (token,), "stop")
        text = self._stops.push(self._text.push(data), may_match=self._may_end)
        if self._stops.matched:
            return self._output(text, (token,), "stop")
        if not self.wants_tokens:
            return self._end(text, (token,), "length")
        return self._output(text, (token,), None)

    def end_without_tokens(self) -> GenerationOutput:
        """The only output of a request for no token at all."""
        return self._output("", (), "length")

    def _end(
        self, text: str, tokens: tuple[ScoredToken, ...], reason: FinishReason
    ) -> GenerationOutput:
        """The last output: what was held back is text after all, unless it ends in a stop."""
        text += self._stops.push(self._text.finish(), may_match=self._may_end)
        if self._stops.matched:
            return self._output(text, tokens, "stop")
        return self._output(text + self._stops.finish(), tokens, reason)

    def _output(
        self, text: str, tokens: tuple[ScoredToken, ...], reason: FinishReason | None
    ) -> GenerationOutput:
        scores, self._prompt_scores = self._prompt_scores, None
        prompt_tokens = None if scores is None else tuple(scores)
        return GenerationOutput(self.request.request_id, text, tokens, prompt_tokens, reason)
