"""Every wrong request gets a status, OpenAI's error object and one line that names the field."""

from __future__ import annotations

import logging
import threading

import httpx
import pytest
from pydantic import TypeAdapter, ValidationError

from unshard.server.chat_protocol import ChatRequest
from unshard.server.fields import PromptForm
from unshard.server.metaseq_protocol import MetaseqRequest
from unshard.server.protocol import CompletionRequest
from unshard.server.tokenization import DetokenizeRequest, TokenizeRequest

URL = "/v1/completions"
BAD = [
    # body, status, param, code, a part of the message
    ({}, 400, "prompt", "missing_required_parameter", "is required"),
    ({"prompt": None}, 400, "prompt", None, "must be a string"),
    ({"prompt": []}, 400, "prompt", None, "must not be an empty list"),
    ({"prompt": [[]]}, 400, "prompt", None, "must not be an empty list"),
    ({"prompt": [[5], []]}, 400, "prompt", None, "must not be an empty list"),
    ({"prompt": 5}, 400, "prompt", None, "must be a string"),
    ({"prompt": ["a", 5]}, 400, "prompt", None, "must be a string"),
    ({"prompt": ["a", [5]]}, 400, "prompt", None, "must be a string"),
    ({"prompt": [5, True]}, 400, "prompt", None, "must be a string"),
    ({"prompt": [5.5]}, 400, "prompt", None, "must be a string"),
    ({"prompt": {"a": 1}}, 400, "prompt", None, "must be a string"),
    ({"prompt": [-1]}, 400, "prompt", None, "vocabulary"),
    ({"prompt": [10**40]}, 400, "prompt", None, "vocabulary"),
    ({"prompt": "x" * 99}, 400, "prompt", "context_length_exceeded", "context"),
    ({"prompt": ["ok", "x" * 99]}, 400, "prompt", "context_length_exceeded", "context"),
    ({"prompt": "p", "model": "gpt-4"}, 404, "model", "model_not_found", "'gpt-4'"),
    ({"prompt": "p", "model": "x" * 10**6}, 404, "model", "model_not_found", f"'{'x' * 100}'"),
    ({"prompt": "p", "model": 5}, 400, "model", None, "string"),
    ({"prompt": "p", "max_tokens": -1}, 400, "max_tokens", None, "greater"),
    ({"prompt": "p", "max_tokens": 0}, 400, "max_tokens", None, "echo"),
    ({"prompt": "p", "max_tokens": 1.5}, 400, "max_tokens", None, "integer"),
    ({"prompt": "p", "max_tokens": "5"}, 400, "max_tokens", None, "integer"),
    ({"prompt": "p", "max_tokens": True}, 400, "max_tokens", None, "integer"),
    ({"prompt": "p", "temperature": -0.1}, 400, "temperature", None, "greater"),
    ({"prompt": "p", "temperature": 2.1}, 400, "temperature", None, "less"),
    ({"prompt": "p", "temperature": "hot"}, 400, "temperature", None, "number"),
    ({"prompt": "p", "top_p": 0}, 400, "top_p", None, "greater"),
    ({"prompt": "p", "top_p": 1.01}, 400, "top_p", None, "less"),
    ({"prompt": "p", "n": 0}, 400, "n", None, "greater"),
    ({"prompt": "p", "n": 17}, 400, "n", None, "less"),
    ({"prompt": "p", "logprobs": 21}, 400, "logprobs", None, "less"),
    ({"prompt": "p", "logprobs": -1}, 400, "logprobs", None, "greater"),
    ({"prompt": "p", "logprobs": True}, 400, "logprobs", None, "integer"),
    ({"prompt": "p", "echo": "yes"}, 400, "echo", None, "boolean"),
    ({"prompt": "p", "stream": 1}, 400, "stream", None, "boolean"),
    ({"prompt": "p", "stop": ""}, 400, "stop", None, "empty"),
    ({"prompt": "p", "stop": ["a", ""]}, 400, "stop", None, "empty"),
    ({"prompt": "p", "stop": ["a"] * 17}, 400, "stop", None, "at most 16"),
    ({"prompt": "p", "stop": [5]}, 400, "stop", None, "string"),
    ({"prompt": "p", "seed": 2**63}, 400, "seed", None, "less"),
    ({"prompt": "p", "seed": 0.5}, 400, "seed", None, "integer"),
    ({"prompt": "p", "best_of": 0}, 400, "best_of", None, "greater"),
    ({"prompt": "p", "best_of": 17}, 400, "best_of", None, "less"),
    ({"prompt": "p", "n": 3, "best_of": 2}, 400, "best_of", None, "less than n"),
    ({"prompt": "p", "stream": True, "best_of": 2}, 400, "best_of", None, "when stream is true"),
    ({"prompt": "p", "suffix": "s"}, 400, "suffix", "unsupported_parameter", "not supported"),
    ({"prompt": "p", "presence_penalty": 2.5}, 400, "presence_penalty", None, "less"),
    ({"prompt": "p", "frequency_penalty": -3}, 400, "frequency_penalty", None, "greater"),
    ({"prompt": "p", "logit_bias": {"the": 1}}, 400, "logit_bias", None, "token ids"),
    ({"prompt": "p", "logit_bias": {"1" * 5000: 1}}, 400, "logit_bias", None, "token ids"),
    ({"prompt": "p", "logit_bias": [5]}, 400, "logit_bias", None, "dictionary"),
    ({"prompt": "p", "logit_bias": {"5": 101}}, 400, "logit_bias", None, "within 100"),
    ({"prompt": "p", "top_k": -2}, 400, "top_k", None, "greater"),
    ({"prompt": "p", "top_k": 0.5}, 400, "top_k", None, "integer"),
    ({"prompt": "p", "min_p": 1.5}, 400, "min_p", None, "less"),
    ({"prompt": "p", "min_tokens": -1}, 400, "min_tokens", None, "greater"),
    ({"prompt": "p", "repetition_penalty": 0}, 400, "repetition_penalty", None, "greater"),
    ({"prompt": "p", "repetition_penalty": 2.5}, 400, "repetition_penalty", None, "less"),
    ({"prompt": "p", "beams": 5}, 400, "beams", "unknown_parameter", "not a field"),
    ({"prompt": "p", "beams": None}, 400, "beams", "unknown_parameter", "not a field"),
    (
        {"prompt": "p", "stream_options": {"include_usage": True}},
        400,
        "stream_options",
        None,
        "only when stream",
    ),
    (
        {"prompt": "p", "stream": True, "stream_options": {"x": 1}},
        400,
        "stream_options.x",
        "unknown_parameter",
        "not a field",
    ),
    ({"prompt": ["p"] * 65, "n": 16}, 400, "prompt", None, "more than 1024 choices"),
    ({"prompt": ["p"] * 65, "best_of": 16}, 400, "prompt", None, "with best_of 16"),
    ([1, 2], 400, None, None, "must be a JSON object"),
    ("text", 400, None, None, "must be a JSON object"),
]
RAW = [
    (b"", "must be a JSON object"),
    (b"{", "not JSON"),
    (b'{"prompt": "p", "temperature": NaN}', "temperature"),
    (b'{"prompt": "p", "temperature": 1e999}', "temperature"),
    (b'{"prompt": "\\ud800"}', "surrogate"),
    (b'{"prompt": ["ok", "\\udfff"]}', "surrogate"),
    (b'{"prompt": "p", "stop": "\\ud800"}', "surrogate"),
    (b'{"prompt": "p", "seed": ' + b"9" * 5000 + b"}", "body"),
    (b"[" * 100_000, "body"),
    (b'{"prompt": "\xff"}', "body"),
    (b'{"prompt": [' + b"2," * 400_000 + b"2]}", "more than 400000 values"),
    (b'{"prompt": "p", "logit_bias": {"5": 1, "5": 2}}', "5: is in the body twice"),
    (b'{"\\ud800": 1, "\\ud800": 2}', "\ud800: is in the body twice"),
]


def refused(answer: httpx.Response, status: int) -> dict:
    assert answer.status_code == status, answer.text
    assert answer.json().keys() == {"error"}
    error = answer.json()["error"]
    assert error.keys() == {"message", "type", "param", "code"}
    assert error["type"] == ("invalid_request_error" if status < 500 else "server_error")
    assert error["message"]
    assert "\n" not in error["message"]
    return error


@pytest.mark.parametrize(("body", "status", "param", "code", "part"), BAD)
def test_refused(client, engine, body, status, param, code, part):
    error = refused(client.post(URL, json=body), status)
    assert (error["param"], error["code"]) == (param, code)
    assert part in error["message"]
    assert engine.wait_until(lambda: not engine.active)


@pytest.mark.parametrize(("raw", "part"), RAW)
def test_refused_bytes(client, raw, part):
    headers = {"content-type": "application/json"}
    assert part in refused(client.post(URL, content=raw, headers=headers), 400)["message"]


def test_a_field_that_is_there_twice_is_named(client):
    """Python's parser takes the last, another one the first."""
    raw = b'{"prompt": "p", "seed": 1, "max_tokens": 1, "seed": 2}'
    error = refused(
        client.post(URL, content=raw, headers={"content-type": "application/json"}), 400
    )
    assert error["param"] == "seed"


def test_refused_content_type(client):
    answer = client.post(URL, content=b'{"prompt": "p"}', headers={"content-type": "text/plain"})
    assert "application/json" in refused(answer, 400)["message"]


MANY = 1000
FULL_OF_ERRORS = [
    # each once took seconds and gigabytes, at the 8 MiB that a body may have
    (CompletionRequest, {"prompt": "p", "logit_bias": {str(key): "x" for key in range(MANY)}}),
    (CompletionRequest, {"prompt": "p"} | {str(key): 1 for key in range(MANY)}),
    (MetaseqRequest, {"prompt": "p"} | {str(key): 1 for key in range(MANY)}),
    (ChatRequest, {"messages": [1] * MANY}),
    (ChatRequest, {"messages": [{}] * MANY}),
    (ChatRequest, {"messages": [{"role": "user", "content": [1] * MANY}]}),
    (TokenizeRequest, {"messages": [{}] * MANY}),
    (DetokenizeRequest, {"tokens": [""] * MANY}),
]


@pytest.mark.parametrize(("model", "body"), FULL_OF_ERRORS)
def test_a_thousand_errors_are_a_few(model, body):
    with pytest.raises(ValidationError) as caught:
        model.model_validate(body)
    assert caught.value.error_count() <= len(model.model_fields)


@pytest.mark.parametrize("prompt", [[1] * MANY + ["x"], [[""]] * MANY])
def test_a_thousand_errors_of_a_prompt_are_one_of_each_form(prompt):
    with pytest.raises(ValidationError) as caught:
        TypeAdapter(PromptForm).validate_python(prompt, strict=True)
    assert caught.value.error_count() <= 4


@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_without_end_is_not_read(client, engine, chunked):
    piece = b'{"prompt": "' + b"a" * 2**20
    pieces = [piece] * 12
    headers = {"content-type": "application/json"}
    content = iter(pieces) if chunked else b"".join(pieces)
    answer = client.post(URL, content=content, headers=headers)
    assert "longer than" in refused(answer, 413)["message"]
    assert not engine.active


@pytest.mark.parametrize("path", ["/health/", "/v1/completions/", "/playground/index.html/"])
def test_a_slash_too_many_leads_nowhere(client, path):
    error = refused(client.get(path, headers={"host": "elsewhere.example"}), 404)
    assert path in error["message"]


def test_unknown_routes(client):
    assert "/v1/nothing" in refused(client.get("/v1/nothing"), 404)["message"]
    answer = client.get(URL)
    assert "GET /v1/completions" in refused(answer, 405)["message"]
    assert answer.headers["allow"] == "POST"
    error = refused(client.get("/v1/models/facebook/opt-66b"), 404)
    assert (error["param"], error["code"]) == ("model", "model_not_found")


class LogWatch(logging.Handler):
    """Waits for a line or traceback in the log."""

    def __init__(self, part: str) -> None:
        super().__init__()
        self.part = part
        self.seen = threading.Event()

    def emit(self, record: logging.LogRecord) -> None:
        if self.part in self.format(record):
            self.seen.set()

    def __enter__(self) -> threading.Event:
        logging.getLogger().addHandler(self)
        return self.seen

    def __exit__(self, *exception: object) -> None:
        logging.getLogger().removeHandler(self)


def test_an_engine_failure_tells_the_log_and_not_the_client(client):
    with LogWatch("/secret/place/weights.bin: out of memory") as logged:
        error = refused(client.post(URL, json={"prompt": "fail"}), 500)
        assert logged.wait(60)
    assert "secret" not in str(error)


def test_a_bug_tells_the_log_and_not_the_client(client, engine):
    def script(request):
        raise RuntimeError("/secret/place: a bug")

    engine.script = script
    with LogWatch("RuntimeError: /secret/place: a bug") as logged:
        error = refused(client.post(URL, json={"prompt": "p"}), 500)
        assert logged.wait(60)
    assert "secret" not in str(error)
