"""Every request is told once, with an id that the client has too, and without what it said."""

from __future__ import annotations

import json

import pytest
from own_server import own_server

from unshard.server.manners import Manners

SECRET = "a prompt of nobody's concern"


def told(capsys) -> list[dict]:
    return [json.loads(line) for line in capsys.readouterr().err.splitlines()]


def test_ids_are_made_kept_or_replaced(client):
    made = {client.get("/health").headers["x-request-id"] for _ in range(3)}
    assert len(made) == 3
    kept = client.get("/health", headers={"x-request-id": "abc.DEF-1:2_3"})
    assert kept.headers["x-request-id"] == "abc.DEF-1:2_3"
    for bad in ("", "a b", "x" * 129, "a\tb", '"', "<script>", "é".encode()):
        answer = client.get("/health", headers={"x-request-id": bad})
        assert answer.headers["x-request-id"].startswith("req-")
    assert client.get("/nowhere").headers["x-request-id"].startswith("req-")


def test_a_failure_names_the_id_that_the_log_names(client, caplog):
    answer = client.post("/v1/completions", json={"prompt": "fail"}, headers={"x-request-id": "f1"})
    assert answer.status_code == 500
    assert "f1" in answer.json()["error"]["message"]
    assert any("request f1 failed" in line for line in caplog.messages)


def test_one_line_each_without_prompts_and_keys(capsys):
    manners = Manners(access_log=True, api_keys=("the-key",))
    with own_server(manners) as server:
        headers = {"authorization": "Bearer the-key", "x-request-id": "r1"}
        body = {"prompt": SECRET[:20], "max_tokens": 3}
        server.client.post("/v1/completions?prompt=" + SECRET, json=body, headers=headers)
        server.client.get("/v1/models", headers={"authorization": "Bearer wrong"})
    text = capsys.readouterr().err
    assert not any(word in text for word in (SECRET[:20], "the-key", "wrong"))
    first, second = map(json.loads, text.splitlines())
    assert (first["request_id"], first["status"], first["complete"]) == ("r1", 200, True)
    assert (first["method"], first["path"]) == ("POST", "/v1/completions")
    assert (first["prompt_tokens"], first["generated_tokens"]) == (21, 3)
    assert first["client"] == "127.0.0.1"
    assert (second["path"], second["status"]) == ("/v1/models", 401)


def test_bodies_when_asked(capsys):
    with own_server(Manners(access_log=True, log_prompts=True)) as server:
        server.client.post("/v1/completions", json={"prompt": SECRET})
    (entry,) = told(capsys)
    assert json.loads(entry["body"]) == {"prompt": SECRET}


def test_a_client_that_left_is_told_as_such(capsys):
    with own_server(Manners(access_log=True)) as server:
        body = {"prompt": "forever", "stream": True}
        with server.client.stream("POST", "/v1/completions", json=body) as answer:
            next(answer.iter_lines())
        assert server.engine.wait_until(lambda: not server.engine.active)
    (entry,) = told(capsys)
    assert (entry["status"], entry["complete"]) == (200, False)
    assert entry["generated_tokens"] >= 1


def test_nothing_is_told_by_default(capsys):
    with own_server(Manners()) as server:
        server.client.get("/health")
    assert told(capsys) == []


@pytest.mark.parametrize("path", ["/a\nb", "/\x1b[31m", "/é\u2028"])
def test_a_path_cannot_forge_a_line(capsys, path):
    with own_server(Manners(access_log=True)) as server:
        server.client.get(path.replace("\n", "%0A").replace("\x1b", "%1B"))
    assert [entry["path"] for entry in told(capsys)] == [path]
