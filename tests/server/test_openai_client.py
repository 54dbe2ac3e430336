"""The `openai` client works unchanged."""

from __future__ import annotations

import openai
import pytest


@pytest.fixture
def api(running_server, engine):
    with openai.OpenAI(
        base_url=f"{running_server.url}/v1", api_key="unused", max_retries=0
    ) as client:
        yield client


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


def test_errors_have_their_types(api):
    with pytest.raises(openai.BadRequestError) as bad:
        api.completions.create(model="scripted", prompt="p", suffix="s")
    assert (bad.value.param, bad.value.code) == ("suffix", "unsupported_parameter")
    with pytest.raises(openai.NotFoundError):
        api.completions.create(model="other", prompt="p")
    with pytest.raises(openai.APIError) as late:
        list(api.completions.create(model="scripted", prompt="fail", stream=True))
    assert "secret" not in str(late.value)


def test_models(api):
    assert [model.id for model in api.models.list()] == ["scripted"]
    assert api.models.retrieve("scripted").owned_by == "unshard"
