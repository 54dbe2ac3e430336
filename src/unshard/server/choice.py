"""One choice of a completion as it grows."""

from __future__ import annotations

from collections.abc import Iterable

from unshard.engine.request import GenerationOutput
from unshard.server.logprobs import LogprobsTrack, join, prompt_logprobs
from unshard.server.prompt import Prompt
from unshard.server.protocol import Choice, CompletionRequest, Logprobs
from unshard.server.served import Tokenizer


class ChoiceWriter:
    """Turns the outputs of one request into what is new in its choice.

    Streamed or not, an answer is made of these deltas, so both are the same.
    """

    def __init__(
        self, index: int, prompt: Prompt, body: CompletionRequest, tokenizer: Tokenizer
    ) -> None:
        self.index = index
        self.prompt = prompt
        self.num_tokens = 0
        """Tokens generated up to now."""
        self._sum_logprobs = 0.0
        self._tokenizer = tokenizer
        self._echo_due = bool(body.echo)
        self._text_length = 0
        text_start = len(prompt.text) if body.echo else 0
        self._track = None if body.logprobs is None else LogprobsTrack(tokenizer, text_start)

    @property
    def mean_logprob(self) -> float:
        """Per token generated, `</s>` too; 0 without any, and where the engine reports none."""
        return self._sum_logprobs / max(1, self.num_tokens)

    def advance(self, output: GenerationOutput) -> Choice | None:
        """What `output` adds, or None when there is nothing to tell yet."""
        text = self._echo() + output.text
        self._text_length += len(text)
        self.num_tokens += len(output.tokens)
        self._sum_logprobs += sum(token.logprob or 0.0 for token in output.tokens)
        logprobs = self._logprobs(output)
        if not (text or (logprobs and logprobs.tokens) or output.finished):
            return None
        return Choice(
            index=self.index, text=text, logprobs=logprobs, finish_reason=output.finish_reason
        )

    def _echo(self) -> str:
        text = self.prompt.text if self._echo_due else ""
        self._echo_due = False
        return text

    def _logprobs(self, output: GenerationOutput) -> Logprobs | None:
        if self._track is None:
            return None
        new = self._track.advance(output.tokens, self._text_length, finished=output.finished)
        if output.prompt_tokens is None:
            return new
        shown = output.prompt_tokens[1:] if self.prompt.bos_added else output.prompt_tokens
        return join([prompt_logprobs(shown, self._tokenizer), new])


def join_choices(deltas: Iterable[Choice]) -> Choice:
    """The whole of a choice from all that was new in it, in order."""
    parts = list(deltas)
    logprobs = [part.logprobs for part in parts if part.logprobs is not None]
    return Choice(
        index=parts[0].index,
        text="".join(part.text for part in parts),
        logprobs=join(logprobs) if logprobs else None,
        finish_reason=parts[-1].finish_reason,
    )
