"""Chat: the messages reach the engine as the template says, streamed and whole alike."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scripted_engine import BOS, EOS, MAX_POSITIONS, ByteTokenizer, write
from sse import events, joined_chat

from unshard.engine.request import SamplingParams
from unshard.errors import RequestError
from unshard.server.chat import ChatCall
from unshard.server.chat_protocol import ChatRequest
from unshard.server.served import ServedModel

TOKENIZER = ByteTokenizer()
URL = "/v1/chat/completions"
HELLO = [{"role": "user", "content": "hello"}]


def chat(client, **body: object) -> dict:
    answer = client.post(URL, json={"messages": HELLO} | body)
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_envelope(client, engine):
    engine.say("hi", EOS)
    answer = chat(client, model="scripted")
    assert answer.keys() == {"id", "object", "created", "model", "choices", "usage"}
    assert answer["id"].startswith("chatcmpl-")
    assert (answer["object"], answer["model"]) == ("chat.completion", "scripted")
    assert answer["choices"] == [
        {
            "index": 0,
            "message": {"role": "assistant", "content": "hi"},
            "logprobs": None,
            "finish_reason": "stop",
        }
    ]
    assert answer["usage"] == {"prompt_tokens": 11, "completion_tokens": 3, "total_tokens": 14}


def test_messages_become_the_template_s_text_and_end_tokens_of_its_own(client, engine):
    messages = [
        {"role": "system", "content": "</s>"},
        {"role": "user", "content": [{"type": "text", "text": t} for t in "ab"], "name": "me"},
    ]
    chat(client, messages=messages, max_tokens=1)
    encode = TOKENIZER.encode
    expected = (BOS, *encode("s:</s>"), BOS, *encode("u:a\nb"), BOS, *encode("a:"))
    assert engine.submitted[-1].prompt_ids == expected


def test_fields_reach_the_engine(client, engine):
    fields = {"temperature": 0.5, "top_p": 0.9, "seed": 3, "presence_penalty": 1}
    fields |= {"frequency_penalty": -1, "top_k": 5, "min_p": 0.1, "min_tokens": 2}
    fields |= {"repetition_penalty": 1.5}
    chat(
        client,
        **fields,
        max_completion_tokens=7,
        stop="##",
        logit_bias={"5": 1},
        logprobs=True,
        top_logprobs=4,
        user="me",
    )
    params = SamplingParams(7, stop=("##",), logit_bias=((5, 1),), logprobs=4, **fields)
    assert engine.submitted[-1].params == params
    chat(client, max_tokens=6)
    assert engine.submitted[-1].params == SamplingParams(6)
    chat(client, logprobs=True, max_tokens=1)
    assert engine.submitted[-1].params.logprobs == 0


def test_without_a_length_an_answer_may_fill_the_context(client, engine):
    nulls = dict.fromkeys(ChatRequest.model_fields.keys() - {"messages"})
    chat(client, **nulls)
    request = engine.submitted[-1]
    assert len(request.prompt_ids) + request.params.max_tokens == MAX_POSITIONS
    answer = client.post(URL, json={"messages": [{"role": "user", "content": "x" * 99}]})
    assert answer.json()["error"]["code"] == "context_length_exceeded"


def test_logprobs_have_bytes_and_the_best_of_their_place(client, engine):
    engine.say("é", EOS)
    got = chat(client, logprobs=True, top_logprobs=2)["choices"][0]["logprobs"]["content"]
    assert [entry["bytes"] for entry in got] == [[0xC3], [0xA9], None]
    assert [entry["token"] for entry in got] == ["bytes:\\xc3", "bytes:\\xa9", "</s>"]
    for entry in got:
        first, second = entry.pop("top_logprobs")
        assert first == entry
        assert second["logprob"] < first["logprob"]
    alone = chat(client, logprobs=True)["choices"][0]["logprobs"]["content"]
    assert [entry["top_logprobs"] for entry in alone] == [[], [], []]


def test_a_stream_begins_with_the_role_and_ends_with_the_reason(client, engine):
    engine.say("ab")
    *chunks, done = events(client, URL, messages=HELLO)
    assert done == "[DONE]"
    assert {chunk["object"] for chunk in chunks} == {"chat.completion.chunk"}
    assert [chunk["choices"][0]["delta"] for chunk in chunks] == [
        {"role": "assistant", "content": ""}, {"content": "a"}, {"content": "b"}, {},
    ]  # fmt: skip
    reasons = [chunk["choices"][0]["finish_reason"] for chunk in chunks]
    assert reasons == [None, None, None, "length"]
    assert not any("usage" in chunk for chunk in chunks)


@settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    text=st.text("ab é\n\u2028日😀", max_size=6),
    n=st.integers(1, 3),
    stop=st.lists(st.text("abé日", min_size=1, max_size=3), max_size=3),
    top=st.none() | st.integers(0, 3),
    max_tokens=st.none() | st.integers(1, 9),
)
def test_streamed_equals_whole(client, engine, text, n, stop, top, max_tokens):
    engine.script = lambda request: write(request, TOKENIZER.encode(text[request.choice :]))
    body = {"messages": HELLO, "n": n, "stop": stop, "max_tokens": max_tokens}
    body |= {"logprobs": top is not None, "top_logprobs": top}
    whole = chat(client, **body)
    *chunks, last, done = events(client, URL, **body, stream_options={"include_usage": True})
    assert done == "[DONE]"
    assert (last["choices"], last["usage"]) == ([], whole["usage"])
    assert all(chunk["usage"] is None for chunk in chunks)
    assert joined_chat(chunks, n) == whole["choices"]
    for choice in whole["choices"]:
        assert not any(string in choice["message"]["content"] for string in stop)


def test_without_a_template_it_says_so(engine):
    served = ServedModel("bare", engine, TOKENIZER, created=0)
    with pytest.raises(RequestError, match="without a chat template") as error:
        ChatCall(ChatRequest(messages=HELLO), served)
    assert (error.value.param, error.value.code) == ("messages", "no_chat_template")
    assert "--chat-template" in error.value.hint


USER = {"role": "user", "content": "hi"}
BAD = [
    ({"messages": []}, "messages", "at least 1"),
    ({"messages": None}, "messages", "list"),
    ({"messages": [{"role": "tool", "content": "x"}]}, "messages.0.role", "user"),
    ({"messages": [{"role": "user"}]}, "messages.0.content", "required"),
    ({"messages": [USER | {"content": None}]}, "messages.0.content", "a string or a list"),
    ({"messages": [USER | {"content": [{"type": "image_url"}]}]}, "messages.0.content", "text"),
    ({"messages": [USER | {"tool_calls": []}]}, "messages.0.tool_calls", "not a field"),
    ({"tools": [{"type": "function"}]}, "tools", "not supported"),
    ({"tool_choice": "auto"}, "tool_choice", "not supported"),
    ({"response_format": {"type": "json_object"}}, "response_format", "not supported"),
    ({"modalities": ["audio"]}, "modalities", "not supported"),
    ({"store": True}, "store", "not supported"),
    ({"reasoning_effort": "high"}, "reasoning_effort", "not supported"),
    ({"best_of": 2}, "best_of", "not a field"),
    ({"echo": True}, "echo", "not a field"),
    ({"max_tokens": 0}, "max_tokens", "greater"),
    ({"max_tokens": 1, "max_completion_tokens": 2}, "max_completion_tokens", "differs"),
    ({"logprobs": 5}, "logprobs", "boolean"),
    ({"top_logprobs": 5}, "top_logprobs", "together with logprobs"),
    ({"logprobs": True, "top_logprobs": 21}, "top_logprobs", "less"),
    ({"stream_options": {"include_usage": True}}, "stream_options", "when stream is true"),
    ({"temperature": 3}, "temperature", "less"),
    ({"model": "gpt-5"}, "model", "'gpt-5'"),
]


@pytest.mark.parametrize(("body", "param", "part"), BAD)
def test_refused(client, body, param, part):
    answer = client.post(URL, json={"messages": [USER]} | body)
    assert answer.status_code == (404 if param == "model" else 400)
    error = answer.json()["error"]
    assert error["param"] == param
    assert part in error["message"]


def test_fields_without_effect_are_taken(client):
    neutral = {"tools": [], "tool_choice": "none", "store": False, "modalities": ["text"]}
    chat(client, **neutral, response_format={"type": "text"}, parallel_tool_calls=True)
