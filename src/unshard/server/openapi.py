"""What `/openapi.json` says of every route beyond what the framework finds."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from unshard.server.api_keys import OPEN_PATHS

ERROR = {
    "type": "object",
    "required": ["error"],
    "additionalProperties": False,
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "additionalProperties": False,
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string", "enum": ["invalid_request_error", "server_error"]},
                "param": {"type": ["string", "null"]},
                "code": {"type": ["string", "null"]},
            },
        }
    },
}
"""OpenAI's error object, with which every failure is answered."""

_ANYWHERE = {
    "401": "A key is asked for, and this is none.",
    "500": "The server failed.",
    "503": "The server is shutting down.",
}
_BODIES = {
    "400": "The request is wrong; `param` names the field.",
    "404": "No such model.",
    "413": "The body is too long.",
    "429": "Too many requests wait; `Retry-After` says when to come again.",
    "504": "The request took longer than it may.",
}


def install(app: FastAPI) -> None:
    """Let `app` describe itself as it is."""

    def describe() -> dict[str, Any]:
        if app.openapi_schema is None:
            schema = get_openapi(title=app.title, version=app.version, routes=app.routes)
            _correct(schema)
            app.openapi_schema = schema
        return app.openapi_schema

    app.openapi = describe  # type: ignore[method-assign]


def _correct(schema: dict[str, Any]) -> None:
    components = schema.setdefault("components", {})
    schemas = components.setdefault("schemas", {})
    for name in ("HTTPValidationError", "ValidationError"):
        schemas.pop(name, None)
    schemas["Error"] = ERROR
    components["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
    for path, operations in schema["paths"].items():
        for operation in operations.values():
            _correct_operation(path, operation)


def _correct_operation(path: str, operation: dict[str, Any]) -> None:
    responses = operation["responses"]
    # The framework's own answer to a wrong body, which this server never gives.
    responses.pop("422", None)
    failures = _ANYWHERE | (_BODIES if "requestBody" in operation else {})
    if "parameters" in operation:
        failures["404"] = _BODIES["404"]
    for status, text in failures.items():
        content = {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}
        responses[status] = {"description": text, "content": content}
    if path not in OPEN_PATHS:
        # Or none at all, where the server was started without keys.
        operation["security"] = [{"key": []}, {}]
