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


def joined(chunks: list[dict], num_choices: int) -> list[dict]:
    """The choices of a whole answer from the chunks of a stream, by plain concatenation."""
    whole: list[dict] = [
        {"index": i, "text": "", "logprobs": None, "finish_reason": None}
        for i in range(num_choices)
    ]
    for chunk in chunks:
        for new in chunk["choices"]:
            choice = whole[new["index"]]
            assert choice["finish_reason"] is None
            choice["text"] += new["text"]
            choice["finish_reason"] = new["finish_reason"]
            if new["logprobs"] is not None:
                lists = choice["logprobs"] or {key: [] for key in new["logprobs"]}
                choice["logprobs"] = {k: v + new["logprobs"][k] for k, v in lists.items()}
                assert all(offset <= len(choice["text"]) for offset in lists["text_offset"])
    return whole


def joined_chat(chunks: list[dict], num_choices: int) -> list[dict]:
    """The choices of a whole answer from a stream's, as a client puts them together."""
    whole: list[dict] = [
        {"index": i, "message": {}, "logprobs": None, "finish_reason": None}
        for i in range(num_choices)
    ]
    for chunk in chunks:
        for new in chunk["choices"]:
            choice = whole[new["index"]]
            assert choice["finish_reason"] is None
            # The role comes first, and once.
            assert ("role" in new["delta"]) == (choice["message"] == {})
            for key, value in new["delta"].items():
                choice["message"][key] = choice["message"].get(key, "") + value
            choice["finish_reason"] = new["finish_reason"]
            if new["logprobs"] is not None:
                content = (choice["logprobs"] or {"content": []})["content"]
                choice["logprobs"] = {"content": content + new["logprobs"]["content"]}
    return whole
