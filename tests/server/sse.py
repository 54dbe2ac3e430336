"""Reading server-sent events as strictly as the strictest client."""

from __future__ import annotations

import json

import httpx


def events(client: httpx.Client, url: str, **body: object) -> list[dict | str]:
    """The data of each event that `body`, with `stream`, is answered with."""
    with client.stream("POST", url, json=body | {"stream": True}) as answer:
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith("text/event-stream")
        # By str.splitlines, the rule that a raw U+2028 inside an event would break.
        lines = "".join(answer.iter_text()).splitlines()
    assert lines[1::2] == [""] * (len(lines) // 2)
    data = [line.removeprefix("data: ") for line in lines[::2]]
    return [item if item == "[DONE]" else json.loads(item) for item in data]
