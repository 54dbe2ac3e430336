"""`/tokenize` says what the model reads, `/detokenize` is its inverse; `/ready` tells the truth."""

from __future__ import annotations

import json

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scripted_engine import BOS, MAX_POSITIONS, VOCAB_SIZE, ByteTokenizer

TOKENIZER = ByteTokenizer()
CHAT = [{"role": "user", "content": "</s>é"}]


def post(client: httpx.Client, url: str, **body: object) -> dict:
    answer = client.post(url, json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(text=st.text("a</s>é日\r\n", max_size=9))
def test_tokenize_is_what_a_completion_reads_and_detokenize_its_inverse(client, engine, text):
    post(client, "/v1/completions", prompt=text, max_tokens=1)
    got = post(client, "/tokenize", prompt=text, model="scripted")
    assert tuple(got["tokens"]) == engine.submitted[-1].prompt_ids
    assert got == {
        "count": len(got["tokens"]),
        "max_model_len": MAX_POSITIONS,
        "tokens": got["tokens"],
        "token_strs": None,
    }
    assert post(client, "/detokenize", tokens=got["tokens"]) == {"prompt": text}
    bare = post(client, "/tokenize", prompt=text, add_special_tokens=False)
    assert [BOS, *bare["tokens"]] == got["tokens"]


def test_tokenize_reads_messages_as_chat_does(client, engine):
    post(client, "/v1/chat/completions", messages=CHAT, max_tokens=1)
    tokens = post(client, "/tokenize", messages=CHAT)["tokens"]
    assert tuple(tokens) == engine.submitted[-1].prompt_ids
    asked = post(client, "/tokenize", messages=CHAT, add_generation_prompt=False)["tokens"]
    assert tokens == [*asked, *TOKENIZER.encode("a:")]


def test_token_strings_are_those_of_logprobs(client):
    got = post(client, "/tokenize", prompt="aé", return_token_strs=True)
    assert got["token_strs"] == ["</s>", "a", "bytes:\\xc3", "bytes:\\xa9"]


def test_a_text_longer_than_the_context_is_counted(client):
    assert post(client, "/tokenize", prompt="x" * 99)["count"] == 100
    assert post(client, "/detokenize", tokens=[]) == {"prompt": ""}


@pytest.mark.parametrize(
    ("url", "body", "param"),
    [
        ("/tokenize", {}, "messages"),
        ("/tokenize", {"prompt": "a", "messages": CHAT}, "messages"),
        ("/tokenize", {"prompt": ["a"]}, "prompt"),
        ("/tokenize", {"prompt": "a", "add_generation_prompt": True}, "add_generation_prompt"),
        ("/tokenize", {"prompt": "\ud800"}, "prompt"),
        ("/tokenize", {"prompt": "a", "model": "other"}, "model"),
        ("/tokenize", {"prompt": "a", "text": "a"}, "text"),
        ("/detokenize", {}, "tokens"),
        ("/detokenize", {"tokens": [-1]}, "tokens"),
        ("/detokenize", {"tokens": [VOCAB_SIZE]}, "tokens"),
        ("/detokenize", {"tokens": [10**40]}, "tokens"),
        ("/detokenize", {"tokens": ["5"]}, "tokens.0"),
        ("/detokenize", {"tokens": [5], "model": "other"}, "model"),
    ],
)
def test_refused(client, url, body, param):
    answer = client.post(url, content=_ascii(body), headers={"content-type": "application/json"})
    assert answer.status_code == (404 if param == "model" else 400), answer.text
    assert answer.json()["error"]["param"] == param


def test_ready_until_the_engine_ends(client, engine, monkeypatch):
    assert client.get("/ready").json() == client.get("/health").json() == {"status": "ok"}
    monkeypatch.setattr(type(engine), "is_alive", False)
    answer = client.get("/ready")
    assert answer.status_code == 503
    assert answer.json()["error"]["type"] == "server_error"
    assert client.get("/health").status_code == 200


def _ascii(body: object) -> bytes:
    """JSON that can spell half a surrogate pair."""
    return json.dumps(body).encode("ascii")
