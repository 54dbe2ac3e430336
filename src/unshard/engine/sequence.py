"""One request on its way through the engine: its tokens so far and its text."""

from __future__ import annotations

import secrets

from unshard.architectures.opt import EOS_TOKEN_ID
from unshard.engine.detokenizer import Detokenizer
from unshard.engine.request import FinishReason, GenerationOutput, GenerationRequest, ScoredToken
from unshard.engine.sampler import Draw
from unshard.engine.stops import StopMatcher


class Sequence:
    """State of one request; `token_ids` are the prompt's and the generated ones."""

    __slots__ = ("_draw_seed", "_stops", "_text", "num_cached", "request", "token_ids")

    def __init__(self, request: GenerationRequest) -> None:
        self.request = request
        self.token_ids = list(request.prompt_ids)
        self.num_cached = 0
        """How many of the tokens have their keys and values in the cache."""
        seed = request.params.seed
        self._draw_seed = secrets.randbits(64) if seed is None else seed
        self._text = Detokenizer()
        self._stops = StopMatcher(request.params.stop)

    @property
    def wants_tokens(self) -> bool:
        """Whether a token may follow those it has."""
        generated = len(self.token_ids) - len(self.request.prompt_ids)
        return generated < self.request.params.max_tokens

    @property
    def draw(self) -> Draw:
        """What decides the next token."""
        request = self.request
        return Draw(request.params, self._draw_seed, request.choice, len(self.token_ids))

    def append(
        self,
        token: ScoredToken,
        data: bytes,
        prompt_tokens: tuple[ScoredToken, ...] | None,
    ) -> GenerationOutput:
        """Take the next token, whose text is `data`; say what is new."""
        self.token_ids.append(token.token_id)
        if token.token_id == EOS_TOKEN_ID:
            return self._end("", (token,), prompt_tokens, "stop")
        text = self._stops.push(self._text.push(data))
        if self._stops.matched:
            return self._output(text, (token,), prompt_tokens, "stop")
        if not self.wants_tokens:
            return self._end(text, (token,), prompt_tokens, "length")
        return self._output(text, (token,), prompt_tokens, None)

    def end_without_tokens(self, prompt_tokens: tuple[ScoredToken, ...] | None) -> GenerationOutput:
        """The only output of a request for no token at all."""
        return self._output("", (), prompt_tokens, "length")

    def _end(
        self,
        text: str,
        tokens: tuple[ScoredToken, ...],
        prompt_tokens: tuple[ScoredToken, ...] | None,
        reason: FinishReason,
    ) -> GenerationOutput:
        """The last output: what was held back is text after all, unless it ends in a stop."""
        text += self._stops.push(self._text.finish())
        if self._stops.matched:
            return self._output(text, tokens, prompt_tokens, "stop")
        return self._output(text + self._stops.finish(), tokens, prompt_tokens, reason)

    def _output(
        self,
        text: str,
        tokens: tuple[ScoredToken, ...],
        prompt_tokens: tuple[ScoredToken, ...] | None,
        reason: FinishReason | None,
    ) -> GenerationOutput:
        request_id = self.request.request_id
        return GenerationOutput(request_id, text, tokens, prompt_tokens, reason)
