"""What the browser's tests do to a page, in words."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import urlencode

WRITTEN = "The answer is written."


def link(prompt: str, **values: Any) -> str:
    """The part of a link behind the host; `a_top_p=0.5` is A's `top_p`."""
    said = {name.replace("_", ".", 1) if name[1] == "_" else name: values[name] for name in values}
    return "#" + urlencode({"prompt": prompt, **said})


def write(page: Any) -> None:
    """Runs and waits for the end."""
    from playwright.sync_api import expect

    page.click("#run")
    expect(page.locator("#status")).to_have_text(WRITTEN)


def answer(page: Any, side: str = "a") -> str:
    """The text of an answer as it is on the page, without what it goes on from."""
    tokens = page.locator(f"[data-side={side}] .text").first
    return tokens.evaluate(
        "(text) => [...text.childNodes].filter("
        "(each) => each.className !== 'lead').map((each) => each.textContent).join('')"
    )


def event(text: str = "", *, logprobs: Any = None, finish_reason: str | None = None) -> str:
    """One event of a stream, as a string."""
    choice = {"index": 0, "text": text, "logprobs": logprobs, "finish_reason": finish_reason}
    part = {"id": "cmpl-1", "object": "text_completion", "model": "m", "choices": [choice]}
    return f"data: {json.dumps(part)}\n\n"


def answer_with(page: Any, *events: str) -> list[Any]:
    """From now on completions are answered with `events`; returns the requests that came."""
    asked: list[Any] = []

    def fulfill(route: Any) -> None:
        asked.append(route.request)
        body = "".join(events) + "data: [DONE]\n\n"
        route.fulfill(body=body, content_type="text/event-stream")

    page.route("**/v1/completions", fulfill)
    return asked
