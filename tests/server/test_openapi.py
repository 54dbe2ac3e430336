"""`/openapi.json` says what the server does."""

from __future__ import annotations

import json

import pytest


@pytest.fixture(scope="module")
def schema(session_client):
    return session_client.get("/openapi.json").json()


def test_every_operation_names_its_failures_as_they_are(schema):
    assert schema["openapi"].startswith("3.1")
    error = {"$ref": "#/components/schemas/Error"}
    for path, operations in schema["paths"].items():
        for operation in operations.values():
            responses = operation["responses"]
            assert "422" not in responses
            assert {"200", "401", "500", "503"} <= responses.keys()
            assert ("requestBody" in operation) <= (
                {"400", "413", "429", "504"} <= responses.keys()
            )
            for status, response in responses.items():
                if status != "200":
                    assert response["content"] == {"application/json": {"schema": error}}
            assert ("security" in operation) != (path in {"/health", "/ready"})


def test_a_stream_is_named_beside_the_whole_answer(schema):
    answer = schema["paths"]["/v1/completions"]["post"]["responses"]["200"]["content"]
    assert answer.keys() == {"application/json", "text/event-stream"}
    assert answer["application/json"]["schema"] == {"$ref": "#/components/schemas/Completion"}


def test_every_reference_leads_somewhere(schema):
    text = json.dumps(schema)
    names = {part.split('"')[0] for part in text.split('"#/components/schemas/')[1:]}
    assert names <= schema["components"]["schemas"].keys()
    assert "ValidationError" not in text


def test_the_pages_of_the_framework_are_off(client):
    for path in ("/docs", "/redoc"):
        assert client.get(path).status_code == 404
