"""`/v1/completions`: its call in the words of OpenAI's legacy API."""

from __future__ import annotations

import asyncio

from fastapi import APIRouter, Request
from starlette.responses import Response

from unshard.engine.request import SamplingParams
from unshard.server.answer import answer
from unshard.server.call import Call, Order, check_model
from unshard.server.choice import ChoiceWriter, Piece
from unshard.server.fields import given
from unshard.server.generation import Generations
from unshard.server.logprobs import completion_logprobs
from unshard.server.prompt import parse_prompts
from unshard.server.protocol import STREAMED, Choice, Completion, CompletionRequest, Usage
from unshard.server.served import ServedModel
from unshard.server.strict_body import StrictRoute

DEFAULT_MAX_TOKENS = 16


def completions_router(served: ServedModel, generations: Generations) -> APIRouter:
    """`POST /v1/completions`."""
    router = APIRouter(route_class=StrictRoute)

    @router.post("/v1/completions", response_model=Completion, responses=STREAMED)
    async def completions(body: CompletionRequest, request: Request) -> Response:
        # In a thread, because encoding a long prompt would hold up every other stream.
        call = await asyncio.to_thread(CompletionCall, body, served)
        return await answer(call, generations, request)

    return router


class CompletionCall(Call):
    """A call of `POST /v1/completions`."""

    def __init__(self, body: CompletionRequest, served: ServedModel) -> None:
        """Encodes the prompts, which may take a while.

        Raises:
            RequestError: the body asks for another model, or for too many choices.
        """
        check_model(body.model, served)
        super().__init__(_order(body, served), served, id_prefix="cmpl-")
        self.streams = bool(body.stream)
        self.include_usage = body.include_usage

    async def complete(self, generations: Generations) -> Completion:
        """The whole answer. Raises: as `Generations.run`."""
        choices = await self.choices(generations)
        return self._completion([self._choice(each) for each in choices], self.usage())

    def events(self, piece: Piece) -> list[Completion]:
        """What a stream says of `piece`."""
        return [self._completion([self._choice(piece)])]

    def usage_event(self) -> Completion:
        """The last event, when it is asked for."""
        return self._completion([], self.usage())

    def _completion(self, choices: list[Choice], usage: Usage | None = None) -> Completion:
        return Completion(
            id=self.id, created=self.created, model=self.model, choices=choices, usage=usage
        )

    def _choice(self, piece: Piece) -> Choice:
        return Choice(
            index=piece.index,
            text=piece.text,
            logprobs=completion_logprobs(piece.tokens, self.tokenizer),
            finish_reason=piece.finish_reason,
        )


def sampling_params(body: CompletionRequest) -> SamplingParams:
    """What `body` asks of the sampler; a field that is null has its default."""
    return body.sampling(
        max_tokens=given(body.max_tokens, DEFAULT_MAX_TOKENS),
        logprobs=0 if body.is_ranked and body.logprobs is None else body.logprobs,
        score_prompt=bool(body.echo) and body.logprobs is not None,
    )


def _order(body: CompletionRequest, served: ServedModel) -> Order:
    prompts = parse_prompts(body.prompt, served.tokenizer)
    num_choices = body.n or 1
    return Order(
        prompts,
        [sampling_params(body)] * len(prompts),
        num_choices=num_choices,
        num_candidates=body.best_of or num_choices,
        rank=_mean_logprob if body.is_ranked else None,
        echo=bool(body.echo),
        reports_tokens=body.logprobs is not None,
    )


def _mean_logprob(writer: ChoiceWriter) -> float:
    return writer.mean_logprob
