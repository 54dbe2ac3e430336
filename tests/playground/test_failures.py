"""What a visitor reads when an answer does not come, in a real browser."""

from __future__ import annotations

import pytest
from pages import answer, event, link, write

pytestmark = [pytest.mark.browser, pytest.mark.timeout(180)]


def test_a_refusal_is_told_in_the_servers_words_at_its_field(new_page, engine, expect):
    page = new_page(fragment=link("p", a_temperature=7))
    page.click("#run")
    problem = page.locator("[data-side=a] .problem")
    expect(problem).to_have_text("temperature: Input should be less than or equal to 2")
    expect(page.locator("#temperature")).to_have_attribute("aria-invalid", "true")
    page.fill("#temperature", "1")
    expect(page.locator("#temperature")).not_to_have_attribute("aria-invalid", "true")
    page.fill("#prompt", "a prompt that is longer than all that this model can hold: " * 3)
    page.click("#run")
    expect(problem).to_contain_text("the context 64; shorten it")
    page.fill("#prompt", "p")
    page.fill("#max_tokens", "3")
    write(page)
    expect(problem).to_be_hidden()


def test_what_the_page_cannot_read_is_told_at_its_field(new_page, engine, expect):
    page = new_page(fragment=link("p", a_logit_bias="some: thing"))
    page.click("#run")
    expect(page.locator("#logit_bias-problem")).to_have_text(
        "“some: thing” is not “token id: number”"
    )
    assert engine.submitted == []


def test_a_failure_in_the_middle_keeps_what_was_written(new_page, engine, expect):
    page = new_page(fragment=link("fail", a_logprobs="", a_max_tokens=9))
    page.click("#run")
    expect(page.locator("[data-side=a] .problem")).to_contain_text(
        "the server failed on this request; its log says more: req-"
    )
    assert answer(page) == "xx"


@pytest.mark.parametrize(
    ("answered", "told"),
    [
        ({"body": event("cut"), "content_type": "text/event-stream"}, "connection ended before"),
        ({"status": 502, "body": "<h1>Bad gateway</h1>"}, "The server answered with status 502."),
        (None, "The server does not answer."),
    ],
)
def test_a_broken_connection_is_told(new_page, expect, answered, told):
    page = new_page(fragment=link("p"))
    page.route("**/v1/completions", lambda r: r.fulfill(**answered) if answered else r.abort())
    page.click("#run")
    expect(page.locator("[data-side=a] .problem")).to_contain_text(told)
