"""The original's API, as metaseq's `interactive_hosted` has it: its fields and its answers."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Annotated

from fastapi import APIRouter, Path, Request
from starlette.responses import Response

from unshard.architectures.opt import EOS_TOKEN_ID
from unshard.engine.request import (
    FactualNucleus,
    SamplingParams,
    ScoredToken,
    SourcePenalties,
)
from unshard.engine.tokenizer import normalize_line_ends
from unshard.server.answer import answer_whole
from unshard.server.call import Call, Order, check_model
from unshard.server.choice import ChoiceWriter, Piece
from unshard.server.fields import PromptForm, stop_strings
from unshard.server.generation import Generations
from unshard.server.metaseq_protocol import (
    MetaseqChoice,
    MetaseqCompletion,
    MetaseqLogprobs,
    MetaseqRequest,
)
from unshard.server.prompt import Prompt, parse_prompts
from unshard.server.served import ServedModel
from unshard.server.strict_body import StrictRoute
from unshard.server.token_places import TextOffsets, named_alternatives, token_string

PATHS = ("/completions", "/generate")
PATHS_OF_ENGINES = tuple(f"{start}/engines/{{engine}}/completions" for start in ("", "/v1", "/v2"))


def metaseq_router(served: ServedModel, generations: Generations) -> APIRouter:
    """`POST /completions` and its other names. Which engine is asked does not matter: there is
    one."""
    router = APIRouter(route_class=StrictRoute)

    async def complete(body: MetaseqRequest, request: Request) -> Response:
        call = await asyncio.to_thread(MetaseqCall, body, served)
        return await answer_whole(call, generations, request)

    async def complete_of(
        _: Annotated[str, Path(alias="engine")], body: MetaseqRequest, request: Request
    ) -> Response:
        return await complete(body, request)

    add = partial(
        router.add_api_route,
        methods=["POST"],
        response_model=MetaseqCompletion,
    )
    for path in PATHS:
        add(path, complete)
    for path in PATHS_OF_ENGINES:
        add(path, complete_of)
    return router


class MetaseqCall(Call):
    """A call of the original's API."""

    def __init__(self, body: MetaseqRequest, served: ServedModel) -> None:
        """Encodes the prompts, which may take a while.

        Raises:
            RequestError: the body asks for another model, or for too many choices.
        """
        check_model(body.model, served)
        super().__init__(_order(body, served), served, id_prefix="metaseq-")
        self._shows_alternatives = (body.logprobs or 0) > 0

    async def complete(self, generations: Generations) -> MetaseqCompletion:
        """The answer. Raises: as `Generations.run`."""
        pieces = await self.choices(generations)
        return MetaseqCompletion(
            choices=[self._choice(piece) for piece in pieces],
            created=self.created,
            id=str(uuid.uuid4()),
            model=self.model,
        )

    def _choice(self, piece: Piece) -> MetaseqChoice:
        """The text is that of the tokens, so it ends with the token that completed a stop."""
        tokens = [token for _, token in piece.tokens or ()]
        if piece.finish_reason == "stop" and tokens and tokens[-1].token_id == EOS_TOKEN_ID:
            tokens.pop()
        ids = [token.token_id for token in tokens]
        offsets = TextOffsets(self.tokenizer)
        return MetaseqChoice(
            logprobs=MetaseqLogprobs(
                finish_reason=piece.finish_reason or "stop",
                text_offset=[offsets.advance(token_id) for token_id in ids],
                token_logprobs=[token.logprob for token in tokens],
                tokens=[token_string(token_id, self.tokenizer) for token_id in ids],
                top_logprobs=self._alternatives(tokens),
            ),
            text=self.tokenizer.decode(ids),
        )

    def _alternatives(self, tokens: Sequence[ScoredToken]) -> list[dict[str, float] | None] | None:
        if not self._shows_alternatives:
            return None
        return [
            None
            if token.logprob is None
            else named_alternatives(token.alternatives, self.tokenizer)
            for token in tokens
        ]


def _order(body: MetaseqRequest, served: ServedModel) -> Order:
    parsed = parse_prompts(_normalized(body.prompt), served.tokenizer)
    prompts = [replace(prompt, hides_bos=False) for prompt in parsed]
    num_candidates = body.best_of or body.n
    return Order(
        prompts,
        [_sampling(body, prompt, served.engine.max_positions) for prompt in prompts],
        num_choices=body.n,
        num_candidates=num_candidates,
        rank=_sum_logprobs if num_candidates > 1 else None,
        echo=bool(body.echo),
        reports_tokens=True,
    )


def _sampling(body: MetaseqRequest, prompt: Prompt, max_positions: int) -> SamplingParams:
    room = max(0, max_positions - len(prompt.ids))
    asked = body.max_tokens
    max_tokens = room if asked is None or asked < 0 else asked
    # It takes them after temperature, the engine before.
    scale = body.temperature or 1.0
    penalizes = max(body.alpha_presence, body.alpha_frequency) > 0
    nucleus = FactualNucleus(body.lambda_decay, body.omega_bound)
    return SamplingParams(
        max_tokens=max_tokens,
        temperature=body.temperature,
        top_p=min(1.0, max(0.0, body.top_p)),
        stop=tuple(normalize_line_ends(stop) for stop in stop_strings(body.stop)),
        seed=body.seed,
        logprobs=max(0, body.logprobs or 0),
        score_prompt=bool(body.echo),
        presence_penalty=body.alpha_presence * scale if penalizes else 0.0,
        frequency_penalty=body.alpha_frequency * scale if penalizes else 0.0,
        min_tokens=min(body.min_tokens, max_tokens),
        factual_nucleus=nucleus if body.lambda_decay > 0 else None,
        source_penalties=SourcePenalties(
            body.alpha_presence_src, body.alpha_frequency_src, body.alpha_src_penalty_end_idx
        ),
    )


def _normalized(prompt: PromptForm) -> PromptForm:
    """Line ends of texts as the original makes them."""
    if isinstance(prompt, str):
        return normalize_line_ends(prompt)
    texts = [normalize_line_ends(each) for each in prompt if isinstance(each, str)]
    return texts or prompt


def _sum_logprobs(writer: ChoiceWriter) -> float:
    return writer.sum_logprobs
