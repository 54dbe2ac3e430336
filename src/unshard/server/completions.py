"""One completions call: prompts × best_of requests to the engine, its choices as they grow."""

from __future__ import annotations

import contextlib
import time
import uuid
from collections.abc import AsyncGenerator
from typing import TypeVar

from unshard.engine.request import GenerationRequest, SamplingParams
from unshard.errors import RequestError
from unshard.server.choice import ChoiceWriter, join_choices
from unshard.server.generation import Generations
from unshard.server.limits import MAX_CHOICES
from unshard.server.prompt import parse_prompts
from unshard.server.protocol import Choice, Completion, CompletionRequest, Usage
from unshard.server.served import ServedModel

T = TypeVar("T")
_DEFAULTS = SamplingParams()
"""OpenAI's defaults and the engine's are the same."""


class CompletionCall:
    """One call under way: its prompts, its choices, what they have cost."""

    def __init__(self, body: CompletionRequest, served: ServedModel) -> None:
        """Encodes the prompts, which may take a while.

        Raises:
            RequestError: the body asks for another model, or for too many choices.
        """
        if body.model is not None and body.model != served.name:
            raise no_such_model(body.model, served)
        self._id = f"cmpl-{uuid.uuid4().hex}"
        self._created = int(time.time())
        self._model = served.name
        self._params = sampling_params(body)
        self._prompts = parse_prompts(body.prompt, served.tokenizer)
        self._num_choices = body.n or 1
        self._num_candidates = body.best_of or self._num_choices
        self._is_ranked = body.is_ranked
        if len(self._prompts) * self._num_candidates > MAX_CHOICES:
            name = "best_of" if self._is_ranked else "n"
            raise RequestError(
                f"{len(self._prompts)} prompts with {name} {self._num_candidates} are more than "
                f"{MAX_CHOICES} choices",
                param="prompt",
                hint="send several requests",
            )
        self._writers = [
            ChoiceWriter(index, prompt, body, served.tokenizer)
            for index, prompt in enumerate(
                prompt for prompt in self._prompts for _ in range(self._num_candidates)
            )
        ]

    def requests(self) -> list[GenerationRequest]:
        """One request per candidate, prompt by prompt."""
        return [
            GenerationRequest(
                request_id=self._request_id(writer.index),
                prompt_ids=writer.prompt.ids,
                params=self._params,
                choice=writer.index % self._num_candidates,
            )
            for writer in self._writers
        ]

    async def deltas(self, generations: Generations) -> AsyncGenerator[Choice, None]:
        """What is new in each candidate, as it comes. Close it to cancel the rest of the call.

        Raises: as `Generations.run`.
        """
        writers = {self._request_id(writer.index): writer for writer in self._writers}
        async with contextlib.aclosing(generations.run(self.requests())) as outputs:
            async for output in outputs:
                delta = writers[output.request_id].advance(output)
                if delta is not None:
                    yield delta

    async def complete(self, generations: Generations) -> Completion:
        """The whole answer. Raises: as `Generations.run`."""
        parts: list[list[Choice]] = [[] for _ in self._writers]
        async with contextlib.aclosing(self.deltas(generations)) as deltas:
            async for delta in deltas:
                parts[delta.index].append(delta)
        choices = [
            join_choices(parts[candidate]).model_copy(update={"index": index})
            for index, candidate in enumerate(self._best())
        ]
        return self.completion(choices, self.usage())

    def _best(self) -> list[int]:
        """The candidates that are choices, prompt by prompt: all in their order, or with
        `best_of` the best first."""
        candidates = range(len(self._writers))
        if not self._is_ranked:
            return list(candidates)
        best: list[int] = []
        for start in candidates[:: self._num_candidates]:
            of_prompt = candidates[start : start + self._num_candidates]
            ranked = sorted(of_prompt, key=lambda c: self._writers[c].mean_logprob, reverse=True)
            best += ranked[: self._num_choices]
        return best

    def completion(self, choices: list[Choice], usage: Usage | None = None) -> Completion:
        """An answer of this call, or one event of its stream."""
        return Completion(
            id=self._id, created=self._created, model=self._model, choices=choices, usage=usage
        )

    def usage(self) -> Usage:
        """The cost up to now: a prompt once whatever `n`, and with its `</s>`; the tokens of all
        candidates."""
        prompt_tokens = sum(len(prompt.ids) for prompt in self._prompts)
        completion_tokens = sum(writer.num_tokens for writer in self._writers)
        return Usage(
            prompt_tokens=prompt_tokens,
            completion_tokens=completion_tokens,
            total_tokens=prompt_tokens + completion_tokens,
        )

    def _request_id(self, index: int) -> str:
        return f"{self._id}-{index}"


def sampling_params(body: CompletionRequest) -> SamplingParams:
    """What `body` asks of the sampler; a field that is null has its default."""
    stop = [body.stop] if isinstance(body.stop, str) else body.stop or []
    return SamplingParams(
        max_tokens=_given(body.max_tokens, _DEFAULTS.max_tokens),
        temperature=_given(body.temperature, _DEFAULTS.temperature),
        top_p=_given(body.top_p, _DEFAULTS.top_p),
        stop=tuple(stop),
        seed=body.seed,
        logprobs=0 if body.is_ranked and body.logprobs is None else body.logprobs,
        score_prompt=bool(body.echo) and body.logprobs is not None,
        top_k=max(0, body.top_k or 0),
        min_p=body.min_p or 0.0,
        presence_penalty=body.presence_penalty or 0.0,
        frequency_penalty=body.frequency_penalty or 0.0,
        repetition_penalty=_given(body.repetition_penalty, _DEFAULTS.repetition_penalty),
        min_tokens=body.min_tokens or 0,
        logit_bias=tuple((int(key), bias) for key, bias in (body.logit_bias or {}).items()),
    )


def no_such_model(name: str, served: ServedModel) -> RequestError:
    """The error for a model that is not served here."""
    return RequestError(
        f"the model {name!r} is not served here",
        param="model",
        code="model_not_found",
        hint=f"use {served.name!r} or leave the field out",
    )


def _given(value: T | None, default: T) -> T:
    return default if value is None else value
