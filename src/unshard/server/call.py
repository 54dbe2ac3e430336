"""One call to the API, whatever its dialect: prompts × candidates of requests to the engine, its
choices as they grow, and what they cost."""

from __future__ import annotations

import contextlib
import time
import uuid
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass, replace

from unshard.engine.request import GenerationRequest, SamplingParams
from unshard.errors import RequestError
from unshard.server.choice import ChoiceWriter, Piece, join_pieces
from unshard.server.generation import Generations
from unshard.server.limits import MAX_CHOICES, MAX_SHOWN
from unshard.server.prompt import Prompt
from unshard.server.protocol import Usage
from unshard.server.served import ServedModel


@dataclass(frozen=True, slots=True)
class Order:
    """What a call asks of the engine."""

    prompts: Sequence[Prompt]
    params: Sequence[SamplingParams]
    """One for each prompt."""
    num_choices: int = 1
    """Answers for each prompt."""
    num_candidates: int = 1
    """Of which the best are the answers; so many are generated for each prompt."""
    rank: Callable[[ChoiceWriter], float] | None = None
    """Which candidates are the best: those of the highest. None: the first ones are answers."""
    echo: bool = False
    reports_tokens: bool = False


class Call:
    """One call under way. Subclasses say it in the words of a dialect."""

    def __init__(self, order: Order, served: ServedModel, *, id_prefix: str) -> None:
        """
        Raises:
            RequestError: it is too many choices.
        """
        self.id = f"{id_prefix}{uuid.uuid4().hex}"
        self.created = int(time.time())
        self.model = served.name
        self.tokenizer = served.tokenizer
        self.order = order
        _check_number(order)
        self._writers = [
            ChoiceWriter(
                index,
                prompt,
                served.tokenizer,
                echo=order.echo,
                reports_tokens=order.reports_tokens,
            )
            for index, prompt in enumerate(
                prompt for prompt in order.prompts for _ in range(order.num_candidates)
            )
        ]

    def requests(self) -> list[GenerationRequest]:
        """One request per candidate, prompt by prompt."""
        number = self.order.num_candidates
        return [
            GenerationRequest(
                request_id=self._request_id(writer.index),
                prompt_ids=writer.prompt.ids,
                params=self.order.params[writer.index // number],
                choice=writer.index % number,
            )
            for writer in self._writers
        ]

    async def pieces(self, generations: Generations) -> AsyncGenerator[Piece, None]:
        """What is new in each candidate, as it comes. Close it to cancel the rest of the call.

        Raises: as `Generations.run`.
        """
        writers = {self._request_id(writer.index): writer for writer in self._writers}
        async with contextlib.aclosing(generations.run(self.requests())) as outputs:
            async for output in outputs:
                piece = writers[output.request_id].advance(output)
                if piece is not None:
                    yield piece

    async def choices(self, generations: Generations) -> list[Piece]:
        """All choices, whole, in their order. Raises: as `Generations.run`."""
        parts: list[list[Piece]] = [[] for _ in self._writers]
        async with contextlib.aclosing(self.pieces(generations)) as pieces:
            async for piece in pieces:
                parts[piece.index].append(piece)
        return [
            replace(join_pieces(parts[candidate]), index=index)
            for index, candidate in enumerate(self._best())
        ]

    def usage(self) -> Usage:
        """The cost up to now: a prompt once whatever `n`, and with its `</s>`; the tokens of all
        candidates."""
        prompt_tokens = sum(len(prompt.ids) for prompt in self.order.prompts)
        completion_tokens = sum(writer.num_tokens for writer in self._writers)
        return Usage(
            prompt_tokens=prompt_tokens,
            completion_tokens=completion_tokens,
            total_tokens=prompt_tokens + completion_tokens,
        )

    def _best(self) -> list[int]:
        """The candidates that are choices, prompt by prompt, the best first where they are
        ranked."""
        rank, number = self.order.rank, self.order.num_candidates
        best: list[int] = []
        for start in range(0, len(self._writers), number):
            of_prompt = list(range(start, start + number))
            if rank is not None:
                of_prompt.sort(key=lambda index: rank(self._writers[index]), reverse=True)
            best += of_prompt[: self.order.num_choices]
        return best

    def _request_id(self, index: int) -> str:
        return f"{self.id}-{index}"


def no_such_model(name: str, served: ServedModel) -> RequestError:
    """The error for a model that is not served here."""
    return RequestError(
        f"the model {name[:MAX_SHOWN]!r} is not served here",
        param="model",
        code="model_not_found",
        hint=f"use {served.name!r} or leave the field out",
    )


def check_model(name: str | None, served: ServedModel) -> None:
    """
    Raises:
        RequestError: `name` is another model than the one here.
    """
    if name is not None and name != served.name:
        raise no_such_model(name, served)


def _check_number(order: Order) -> None:
    if len(order.prompts) * order.num_candidates > MAX_CHOICES:
        name = "best_of" if order.num_candidates > order.num_choices else "n"
        raise RequestError(
            f"{len(order.prompts)} prompts with {name} {order.num_candidates} are more than "
            f"{MAX_CHOICES} choices",
            param="prompt",
            hint="send several requests",
        )
