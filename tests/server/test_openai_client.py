"""The `openai` client works unchanged: every field it knows is honoured, or refused by name."""

from __future__ import annotations

from collections.abc import Callable

import openai
import pytest
from openai.types import completion_create_params as completion_params
from openai.types.chat import completion_create_params as chat_params
from scripted_engine import BOS, EOS, ByteTokenizer, write

TOKENIZER = ByteTokenizer()
HELLO = [{"role": "user", "content": "hello"}]


@pytest.fixture(scope="module")
def one_api(running_server):
    with openai.OpenAI(
        base_url=f"{running_server.url}/v1", api_key="unused", max_retries=0
    ) as client:
        yield client


@pytest.fixture
def api(one_api, engine):
    return one_api


Check = Callable[[object, object], bool]
"""Of the answer and the last request that reached the engine: whether a field was honoured."""
SAMPLING: dict[str, tuple[object, Check]] = {
    "temperature": (0.5, lambda a, r: r.params.temperature == 0.5),
    "top_p": (0.5, lambda a, r: r.params.top_p == 0.5),
    "seed": (7, lambda a, r: r.params.seed == 7),
    "stop": (["##", "zz"], lambda a, r: r.params.stop == ("##", "zz")),
    "presence_penalty": (1.5, lambda a, r: r.params.presence_penalty == 1.5),
    "frequency_penalty": (-1.5, lambda a, r: r.params.frequency_penalty == -1.5),
    "logit_bias": ({"9": -100}, lambda a, r: r.params.logit_bias == ((9, -100),)),
    "max_tokens": (3, lambda a, r: a.usage.completion_tokens == 3),
    "n": (2, lambda a, r: [c.index for c in a.choices] == [0, 1]),
    "model": ("scripted", lambda a, r: a.model == "scripted"),
    # A label that says who asks.
    "user": ("somebody", lambda a, r: True),
}
STREAMING = {"stream", "stream_options"}
COMPLETIONS: dict[str, tuple[object, Check]] = SAMPLING | {
    "prompt": ([[BOS, 9]], lambda a, r: r.prompt_ids == (BOS, 9)),
    "echo": (True, lambda a, r: a.choices[0].text.startswith("hello")),
    "best_of": (3, lambda a, r: r.choice == 2 and len(a.choices) == 1),
    "logprobs": (2, lambda a, r: len(a.choices[0].logprobs.top_logprobs[0]) == 2),
}
CHAT: dict[str, tuple[object, Check]] = SAMPLING | {
    "messages": (HELLO, lambda a, r: a.choices[0].message.role == "assistant"),
    "max_completion_tokens": (2, lambda a, r: a.usage.completion_tokens == 2),
    "logprobs": (True, lambda a, r: len(a.choices[0].logprobs.content) > 0),
}
REFUSED_IN_CHAT = {
    "audio": {"format": "wav", "voice": "ash"},
    "function_call": "auto",
    "functions": [{"name": "f"}],
    "metadata": {"a": "b"},
    "modalities": ["text", "audio"],
    "moderation": {"model": "m"},
    "parallel_tool_calls": False,
    "prediction": {"type": "content", "content": "x"},
    "prompt_cache_key": "k",
    "prompt_cache_options": {"mode": "implicit"},
    "prompt_cache_retention": "24h",
    "reasoning_effort": "low",
    "response_format": {"type": "json_object"},
    "safety_identifier": "s",
    "service_tier": "flex",
    "store": True,
    "tool_choice": "required",
    "tools": [{"type": "function", "function": {"name": "f"}}],
    "top_logprobs": 3,  # without logprobs
    "verbosity": "low",
    "web_search_options": {},
}


def test_no_field_of_the_client_s_is_forgotten():
    fields = completion_params.CompletionCreateParamsStreaming.__annotations__.keys()
    assert fields == COMPLETIONS.keys() | STREAMING | {"suffix"}
    fields = chat_params.CompletionCreateParamsStreaming.__annotations__.keys()
    assert fields == CHAT.keys() | STREAMING | REFUSED_IN_CHAT.keys()


@pytest.mark.parametrize("field", COMPLETIONS)
def test_completions_honour(api, engine, field):
    value, honours = COMPLETIONS[field]
    fields = {"model": "scripted", "prompt": "hello", field: value}
    assert honours(api.completions.create(**fields), engine.submitted[-1])


@pytest.mark.parametrize("field", CHAT)
def test_chat_honours(api, engine, field):
    value, honours = CHAT[field]
    fields = {"model": "scripted", "messages": HELLO, field: value}
    assert honours(api.chat.completions.create(**fields), engine.submitted[-1])


@pytest.mark.parametrize("field", REFUSED_IN_CHAT)
def test_chat_refuses_by_name(api, field):
    fields = {"model": "scripted", "messages": HELLO, field: REFUSED_IN_CHAT[field]}
    with pytest.raises(openai.BadRequestError) as bad:
        api.chat.completions.create(**fields)
    assert bad.value.param == field


@pytest.mark.parametrize("prompt", ["", "é", ["a", "b"], [9, 10], [[9], [10, 11]], [BOS]])
def test_every_form_of_prompt(api, prompt):
    many = isinstance(prompt, list) and not isinstance(prompt[0], int)
    answer = api.completions.create(model="scripted", prompt=prompt, n=2, max_tokens=1)
    assert len(answer.choices) == (2 * len(prompt) if many else 2)


def test_whole(api):
    answer = api.completions.create(
        model="scripted", prompt="hello", max_tokens=5, logprobs=3, echo=True, seed=1, n=2
    )
    assert [choice.index for choice in answer.choices] == [0, 1]
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + 10
    assert answer.choices[0].text.startswith("hello")
    assert len(answer.choices[0].logprobs.token_logprobs) == 10
    assert answer.choices[0].finish_reason == "length"


def test_streamed_equals_whole(api):
    fields = {"model": "scripted", "prompt": "hello", "max_tokens": 12, "seed": 1}
    whole = api.completions.create(**fields)
    with api.completions.create(
        **fields, stream=True, stream_options={"include_usage": True}
    ) as stream:
        chunks = list(stream)
    text = "".join(choice.text for chunk in chunks for choice in chunk.choices)
    assert text == whole.choices[0].text
    assert chunks[-1].usage == whole.usage
    assert chunks[-2].choices[0].finish_reason == "length"


def test_a_chat_streamed_equals_whole(api, engine):
    """By the client's own way of putting the events together, which takes no cut answers."""

    def script(request):
        text = "zé日"[request.choice :]
        return write(request, [*TOKENIZER.encode(text), EOS], finish_reason="stop")

    engine.script = script
    fields = {"model": "scripted", "messages": HELLO, "max_tokens": 12, "seed": 1, "n": 2}
    fields |= {"logprobs": True, "top_logprobs": 1}
    whole = api.chat.completions.create(**fields)
    with api.chat.completions.stream(**fields, stream_options={"include_usage": True}) as stream:
        final = stream.get_final_completion()
    assert final.usage == whole.usage
    for got, expected in zip(final.choices, whole.choices, strict=True):
        assert got.message.content == expected.message.content
        assert got.finish_reason == expected.finish_reason
        assert got.logprobs.content == expected.logprobs.content


def test_errors_have_their_types(api):
    with pytest.raises(openai.BadRequestError) as bad:
        api.completions.create(model="scripted", prompt="p", suffix="s")
    assert (bad.value.param, bad.value.code) == ("suffix", "unsupported_parameter")
    for create, asked in (
        (api.completions.create, {"prompt": "p"}),
        (api.chat.completions.create, {"messages": HELLO}),
    ):
        with pytest.raises(openai.NotFoundError) as absent:
            create(model="other", **asked)
        assert (absent.value.param, absent.value.code) == ("model", "model_not_found")
    with pytest.raises(openai.APIError) as late:
        list(api.completions.create(model="scripted", prompt="fail", stream=True))
    assert "secret" not in str(late.value)


def test_fields_beside_the_client_s_own(api, engine):
    extra = {"top_k": 5, "min_p": 0.25, "repetition_penalty": 1.5, "min_tokens": 2}
    api.completions.create(model="scripted", prompt="p", extra_body=extra)
    api.chat.completions.create(model="scripted", messages=HELLO, extra_body=extra)
    for request in engine.submitted:
        assert {name: getattr(request.params, name) for name in extra} == extra


def test_models(api):
    assert [model.id for model in api.models.list()] == ["scripted"]
    assert api.models.retrieve("scripted").owned_by == "unshard"
