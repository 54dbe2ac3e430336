"""`/v1/chat/completions`: its call in the words of OpenAI's chat API."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from fastapi import APIRouter, Request
from starlette.responses import Response

from unshard.architectures.opt import BOS_TOKEN_ID
from unshard.errors import RequestError
from unshard.server.answer import answer
from unshard.server.call import Call, Order, check_model
from unshard.server.chat_protocol import (
    AnswerMessage,
    ChatChoice,
    ChatChunk,
    ChatCompletion,
    ChatRequest,
    ChunkChoice,
    Delta,
    Message,
)
from unshard.server.choice import Piece
from unshard.server.generation import Generations
from unshard.server.logprobs import chat_logprobs
from unshard.server.prompt import Prompt, prompt_of_ids
from unshard.server.protocol import STREAMED, Usage
from unshard.server.served import ServedModel
from unshard.server.strict_body import StrictRoute


def chat_router(served: ServedModel, generations: Generations) -> APIRouter:
    """`POST /v1/chat/completions`."""
    router = APIRouter(route_class=StrictRoute)

    @router.post("/v1/chat/completions", response_model=ChatCompletion, responses=STREAMED)
    async def chat(body: ChatRequest, request: Request) -> Response:
        call = await asyncio.to_thread(ChatCall, body, served)
        return await answer(call, generations, request)

    return router


class ChatCall(Call):
    """A call of `POST /v1/chat/completions`."""

    def __init__(self, body: ChatRequest, served: ServedModel) -> None:
        """Renders and encodes the messages, which may take a while.

        Raises:
            RequestError: the body asks for another model, or there is no template for its
                messages.
        """
        check_model(body.model, served)
        super().__init__(_order(body, served), served, id_prefix="chatcmpl-")
        self.streams = bool(body.stream)
        self.include_usage = body.include_usage
        self._begun = False

    async def complete(self, generations: Generations) -> ChatCompletion:
        """The whole answer. Raises: as `Generations.run`."""
        return ChatCompletion(
            id=self.id,
            created=self.created,
            model=self.model,
            choices=[
                ChatChoice(
                    index=piece.index,
                    message=AnswerMessage(content=piece.text),
                    logprobs=chat_logprobs(piece.tokens, self.tokenizer),
                    finish_reason=piece.finish_reason or "stop",
                )
                for piece in await self.choices(generations)
            ],
            usage=self.usage(),
        )

    def events(self, piece: Piece) -> list[ChatChunk]:
        """What a stream says of `piece`: what is new, why it ended, and before the first one the
        role of each choice."""
        said: list[ChunkChoice] = []
        if not self._begun:
            # All at once and in order: the openai client takes no other choice first than 0.
            self._begun = True
            role = Delta(role="assistant", content="")
            said += [ChunkChoice(index=i, delta=role) for i in range(self.order.num_choices)]
        if piece.text or piece.tokens is not None:
            logprobs = chat_logprobs(piece.tokens, self.tokenizer)
            new = Delta(content=piece.text)
            said.append(ChunkChoice(index=piece.index, delta=new, logprobs=logprobs))
        if piece.finish_reason:
            reason = piece.finish_reason
            said.append(ChunkChoice(index=piece.index, delta={}, finish_reason=reason))
        return [self._chunk([choice]) for choice in said]

    def usage_event(self) -> ChatChunk:
        """The last event, when it is asked for."""
        return self._chunk([], self.usage())

    def _chunk(self, choices: list[ChunkChoice], usage: Usage | None = None) -> ChatChunk:
        return ChatChunk(
            id=self.id, created=self.created, model=self.model, choices=choices, usage=usage
        )


def chat_prompt(
    messages: Sequence[Message], served: ServedModel, *, add_generation_prompt: bool = True
) -> Prompt:
    """What the model reads of `messages`.

    Raises:
        RequestError: there is no template, or it does not take these messages.
    """
    if served.chat_template is None:
        raise RequestError(
            "this server was started without a chat template, so it cannot read messages",
            param="messages",
            code="no_chat_template",
            hint="ask /v1/completions, or start it with --chat-template",
        )
    parts = served.chat_template.render(
        [message.model_dump(exclude_none=True) for message in messages],
        add_generation_prompt=add_generation_prompt,
    )
    ids: list[int] = []
    for number, part in enumerate(parts):
        ids += [*([BOS_TOKEN_ID] if number else []), *served.tokenizer.encode(part)]
    # A template that does not begin with `</s>` gets it all the same.
    return prompt_of_ids(ids, served.tokenizer)


def _order(body: ChatRequest, served: ServedModel) -> Order:
    prompt = chat_prompt(body.messages, served)
    room = served.engine.max_positions - len(prompt.ids)
    params = body.sampling(
        # As long as it gets. The engine says when there is no room at all.
        max_tokens=body.asked_tokens or max(1, room),
        logprobs=(body.top_logprobs or 0) if body.logprobs else None,
    )
    number = body.n or 1
    return Order(
        [prompt],
        [params],
        num_choices=number,
        num_candidates=number,
        reports_tokens=bool(body.logprobs),
    )
