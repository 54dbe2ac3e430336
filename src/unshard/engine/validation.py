"""Whether a request can run at all: said when it comes, so that nothing is ever cut silently."""

from __future__ import annotations

import math

from unshard.architectures.opt import OPTConfig
from unshard.engine.request import GenerationRequest, SamplingParams
from unshard.errors import RequestError


def validate_request(request: GenerationRequest, config: OPTConfig) -> None:
    """Pure check of `request` against the model's shape.

    Raises:
        RequestError: `param` names the field; code `context_length_exceeded` when prompt and
            `max_tokens` do not fit into `max_positions` together.
    """
    _validate_params(request.params, config.vocab_size)
    if not request.prompt_ids:
        raise RequestError("the prompt has no token, not even the leading </s>", param="prompt")
    for token_id in request.prompt_ids:
        if not 0 <= token_id < config.vocab_size:
            raise RequestError(
                f"token id {token_id} is outside the vocabulary of {config.vocab_size}",
                param="prompt",
            )
    _validate_length(len(request.prompt_ids), request.params.max_tokens, config.max_positions)


def _validate_length(num_prompt: int, max_tokens: int, max_positions: int) -> None:
    if num_prompt + max_tokens <= max_positions:
        return
    fits_alone = num_prompt <= max_positions
    raise RequestError(
        f"the prompt's {num_prompt} tokens and max_tokens {max_tokens} exceed the model's"
        f" context of {max_positions} tokens",
        param="max_tokens" if fits_alone else "prompt",
        code="context_length_exceeded",
        hint=f"ask for at most {max_positions - num_prompt} tokens"
        if fits_alone
        else "shorten the prompt",
    )


def _validate_params(params: SamplingParams, vocab_size: int) -> None:
    if params.max_tokens < 0:
        raise RequestError(f"max_tokens is {params.max_tokens}, below 0", param="max_tokens")
    if not (math.isfinite(params.temperature) and params.temperature >= 0):
        raise RequestError(
            f"temperature is {params.temperature}, not a number from 0 on", param="temperature"
        )
    if not 0 <= params.top_p <= 1:
        raise RequestError(f"top_p is {params.top_p}, not within 0 and 1", param="top_p")
    if params.top_k < 0:
        raise RequestError(f"top_k is {params.top_k}, below 0", param="top_k")
    if not 0 <= params.min_p <= 1:
        raise RequestError(f"min_p is {params.min_p}, not within 0 and 1", param="min_p")
    _validate_logit_changes(params, vocab_size)
    if params.logprobs is not None and not 0 <= params.logprobs <= vocab_size:
        raise RequestError(
            f"logprobs is {params.logprobs}, not within 0 and {vocab_size}", param="logprobs"
        )
    if "" in params.stop:
        raise RequestError("a stop string is empty", param="stop")


def _validate_logit_changes(params: SamplingParams, vocab_size: int) -> None:
    penalties = {
        "presence_penalty": params.presence_penalty,
        "frequency_penalty": params.frequency_penalty,
    }
    for name, penalty in penalties.items():
        if not math.isfinite(penalty):
            raise RequestError(f"{name} is {penalty}, not a finite number", param=name)
    for token_id, bias in params.logit_bias:
        if not 0 <= token_id < vocab_size:
            raise RequestError(
                f"logit_bias names token id {token_id}, outside the vocabulary of {vocab_size}",
                param="logit_bias",
            )
        if not math.isfinite(bias):
            raise RequestError(f"logit_bias is {bias}, not a finite number", param="logit_bias")
