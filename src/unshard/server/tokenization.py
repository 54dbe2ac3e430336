"""`/tokenize` and `/detokenize`: what the model reads for a text, in vLLM's words."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Annotated

from fastapi import APIRouter
from pydantic import Field, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError

from unshard.architectures.opt import BOS_TOKEN_ID
from unshard.errors import RequestError
from unshard.server.call import check_model
from unshard.server.chat import chat_prompt
from unshard.server.chat_protocol import Message
from unshard.server.fields import Incoming, Outgoing, Several, Text
from unshard.server.served import ServedModel
from unshard.server.strict_body import StrictRoute
from unshard.server.token_places import token_string


class TokenizeRequest(Incoming):
    """The body of `POST /tokenize`: a prompt, or the messages of a chat."""

    model: str | None = None
    prompt: Text | None = None
    messages: Annotated[Several[Message], Field(min_length=1)] | None = Field(
        default=None, validate_default=True
    )
    add_special_tokens: bool | None = None
    add_generation_prompt: bool | None = None
    return_token_strs: bool | None = None

    @field_validator("messages")
    @classmethod
    def _one_of_two(cls, value: list[Message] | None, info: ValidationInfo) -> list[Message] | None:
        if (value is None) == (info.data.get("prompt") is None):
            raise PydanticCustomError("not_one", "send either prompt or messages")
        return value

    @field_validator("add_generation_prompt")
    @classmethod
    def _of_messages(cls, value: bool | None, info: ValidationInfo) -> bool | None:
        if value is not None and info.data.get("messages") is None:
            raise PydanticCustomError("without_messages", "is allowed only with messages")
        return value


class Tokens(Outgoing):
    """`token_strs` names each token as logprobs do; null unless asked for."""

    count: int
    max_model_len: int
    tokens: list[int]
    token_strs: list[str] | None = None


class DetokenizeRequest(Incoming):
    """The body of `POST /detokenize`."""

    model: str | None = None
    tokens: Several[int]


class DetokenizedText(Outgoing):
    prompt: str


def tokenization_router(served: ServedModel) -> APIRouter:
    """`POST /tokenize` and `POST /detokenize`."""
    router = APIRouter(route_class=StrictRoute)

    @router.post("/tokenize")
    async def tokenize(body: TokenizeRequest) -> Tokens:
        # In a thread, because encoding a long text would hold up every stream.
        return await asyncio.to_thread(_tokenized, body, served)

    @router.post("/detokenize")
    async def detokenize(body: DetokenizeRequest) -> DetokenizedText:
        return await asyncio.to_thread(_detokenized, body, served)

    return router


def _tokenized(body: TokenizeRequest, served: ServedModel) -> Tokens:
    check_model(body.model, served)
    ids = _ids(body, served)
    return Tokens(
        count=len(ids),
        max_model_len=served.engine.max_positions,
        tokens=ids,
        token_strs=_strings(ids, served) if body.return_token_strs else None,
    )


def _strings(ids: Sequence[int], served: ServedModel) -> list[str]:
    return [token_string(token_id, served.tokenizer) for token_id in ids]


def _ids(body: TokenizeRequest, served: ServedModel) -> list[int]:
    if body.messages is not None:
        add = body.add_generation_prompt is not False
        return list(chat_prompt(body.messages, served, add_generation_prompt=add).ids)
    ids = list(served.tokenizer.encode(body.prompt or ""))
    return ids if body.add_special_tokens is False else [BOS_TOKEN_ID, *ids]


def _detokenized(body: DetokenizeRequest, served: ServedModel) -> DetokenizedText:
    check_model(body.model, served)
    for token_id in body.tokens:
        if not 0 <= token_id < served.engine.vocab_size:
            raise RequestError(
                f"token id {token_id} is outside the vocabulary of {served.engine.vocab_size}",
                param="tokens",
            )
    return DetokenizedText(prompt=served.tokenizer.decode(body.tokens))
