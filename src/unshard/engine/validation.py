"""Whether a request can run at all: said when it comes, so that nothing is ever cut silently."""

from __future__ import annotations

from collections.abc import Iterator

from unshard.architectures.opt import OPTConfig
from unshard.engine.request import GenerationRequest, SamplingParams
from unshard.errors import RequestError

MAX_TEMPERATURE = 1e12
"""All tokens are equal long before."""
MAX_PENALTY = 1e6
"""What may be added to a logit at most, far above any logit and far below fp32's limits."""
MAX_REPETITION = 100.0
"""What a logit may be multiplied with or divided by at most."""


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
    if not 0 <= params.min_tokens <= params.max_tokens:
        raise RequestError(
            f"min_tokens is {params.min_tokens}, not within 0 and max_tokens {params.max_tokens}",
            param="min_tokens",
        )
    if params.top_k < 0:
        raise RequestError(f"top_k is {params.top_k}, below 0", param="top_k")
    for name, value, least, most in _ranges(params):
        if not least <= value <= most:
            raise RequestError(
                f"{name} is {value}, not a number within {least} and {most}", param=name
            )
    for token_id, _ in params.logit_bias:
        if not 0 <= token_id < vocab_size:
            raise RequestError(
                f"logit_bias names token id {token_id}, outside the vocabulary of {vocab_size}",
                param="logit_bias",
            )
    if params.logprobs is not None and not 0 <= params.logprobs <= vocab_size:
        raise RequestError(
            f"logprobs is {params.logprobs}, not within 0 and {vocab_size}", param="logprobs"
        )
    if "" in params.stop:
        raise RequestError("a stop string is empty", param="stop")


def _ranges(params: SamplingParams) -> Iterator[tuple[str, float, float, float]]:
    """Names and values of the numbers of `params`, with the least and the most of each."""
    yield "temperature", params.temperature, 0, MAX_TEMPERATURE
    yield "top_p", params.top_p, 0, 1
    yield "min_p", params.min_p, 0, 1
    yield "presence_penalty", params.presence_penalty, -MAX_PENALTY, MAX_PENALTY
    yield "frequency_penalty", params.frequency_penalty, -MAX_PENALTY, MAX_PENALTY
    yield "repetition_penalty", params.repetition_penalty, 1 / MAX_REPETITION, MAX_REPETITION
    for _, bias in params.logit_bias:
        yield "logit_bias", bias, -MAX_PENALTY, MAX_PENALTY
    if params.factual_nucleus is not None:
        yield "omega_bound", params.factual_nucleus.omega_bound, 0, 1
        yield "lambda_decay", params.factual_nucleus.lambda_decay, 0, 1
    if params.source_penalties is not None:
        yield "alpha_presence_src", params.source_penalties.presence, -MAX_PENALTY, MAX_PENALTY
        yield "alpha_frequency_src", params.source_penalties.frequency, -MAX_PENALTY, MAX_PENALTY
