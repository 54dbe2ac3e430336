"""A stream says what the whole answer says."""

from __future__ import annotations

import json

import httpx
import pytest
import sse
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scripted_engine import BOS, ByteTokenizer, write

TOKENIZER = ByteTokenizer()
URL = "/v1/completions"


def events(client: httpx.Client, **body: object) -> list[dict | str]:
    return sse.events(client, URL, **body)


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    tokens=st.lists(st.sampled_from([*TOKENIZER.encode("ab é\n\u2028日😀"), 0, 3]), max_size=30),
    sizes=st.lists(st.integers(1, 4), min_size=1, max_size=5),
    prompts=st.lists(st.text("aé日\u2028", max_size=4), min_size=1, max_size=3),
    n=st.integers(1, 2),
    stop=st.lists(st.text("abé日", min_size=1, max_size=3), max_size=3),
    logprobs=st.none() | st.integers(0, 3),
    echo=st.booleans(),
    max_tokens=st.integers(1, 30),
)
def test_streamed_equals_whole(
    client, engine, tokens, sizes, prompts, n, stop, logprobs, echo, max_tokens
):
    def script(request):
        mine = tokens[request.choice :]
        return write(request, mine, group=lambda step: sizes[(step + request.choice) % len(sizes)])

    engine.script = script
    body = {"prompt": prompts, "n": n, "stop": stop, "logprobs": logprobs, "echo": echo}
    body |= {"max_tokens": max_tokens}
    whole = client.post(URL, json=body).json()
    *chunks, last, done = events(client, **body, stream_options={"include_usage": True})
    assert done == "[DONE]"
    assert last["choices"] == []
    assert last["usage"] == whole["usage"]
    assert all(chunk["usage"] is None for chunk in chunks)
    assert sse.joined(chunks, len(prompts) * n) == whole["choices"]
    assert len({(c["id"], c["created"], c["model"], c["object"]) for c in [*chunks, last]}) == 1
    for choice in whole["choices"]:
        text, lists = choice["text"], choice["logprobs"]
        for string in stop:
            assert string not in text.removeprefix(prompts[choice["index"] // n] if echo else "")
        if lists and lists["text_offset"]:
            starts = lists["text_offset"]
            pieces = [text[a:b] for a, b in zip(starts, [*starts[1:], None], strict=True)]
            assert (starts[0], "".join(pieces)) == (0, text)


def test_chunks_come_one_by_one_and_usage_only_when_asked(client, engine):
    engine.script = lambda request: write(request, TOKENIZER.encode("abc"))
    *chunks, done = events(client, prompt="p", echo=True, logprobs=0)
    assert done == "[DONE]"
    assert [chunk["choices"][0]["text"] for chunk in chunks] == ["pa", "b", "c"]
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks] == [None, None, "length"]
    assert not any("usage" in chunk for chunk in chunks)


def test_nothing_is_sent_while_text_is_held_back(client, engine):
    engine.script = lambda request: write(request, TOKENIZER.encode("x日"))
    *chunks, _ = events(client, prompt="p")
    assert [chunk["choices"][0]["text"] for chunk in chunks] == ["x", "日"]


def test_a_failure_before_the_first_token_has_its_status(client):
    answer = client.post(URL, json={"prompt": "x" * 99, "stream": True})
    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == "context_length_exceeded"


def test_a_later_failure_is_an_event_without_done(client):
    *chunks, last = events(client, prompt="fail")
    assert [chunk["choices"][0]["text"] for chunk in chunks] == ["x", "x"]
    assert last["error"]["type"] == "server_error"
    assert "secret" not in json.dumps(last)


@pytest.mark.parametrize("stream", [False, True])
def test_one_prompt_that_fails_cancels_its_call_and_no_other(client, engine, stream):
    with client.stream(
        "POST", URL, json={"prompt": "forever", "stream": True, "max_tokens": 9}
    ) as other:
        lines = other.iter_lines()
        next(lines)
        body = {"prompt": ["forever", "fail", "forever"], "stream": stream}
        answer = client.post(URL, json=body)
        assert answer.status_code == (200 if stream else 500)
        assert engine.wait_until(lambda: len(engine.active) == 1)
        assert len(engine.cancelled) == 2
        assert next(line for line in lines if line).startswith("data: {")
    assert engine.wait_until(lambda: not engine.active)


def test_a_prompt_that_is_refused_cancels_those_before_it(client, engine):
    answer = client.post(URL, json={"prompt": [[BOS, 9], [260]]})
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "prompt"
    assert engine.wait_until(lambda: not engine.active)
    assert len(engine.submitted) == 1
