"""Answers in a real browser: as they stream, stopped, coloured, with their alternatives."""

from __future__ import annotations

import json
import re
import threading

import httpx
import pytest
from pages import WRITTEN, answer, answer_with, event, link, write
from scripted_engine import ByteTokenizer
from scripted_engine import write as write_tokens

pytestmark = [pytest.mark.browser, pytest.mark.timeout(180)]


def test_the_bundled_model_answers_at_once(new_page, demo_url, expect):
    page = new_page(demo_url)
    expect(page.locator("#model")).to_have_text("demo_model · 512 tokens of context")
    write(page)
    assert page.locator(".token").count() == 96
    assert len(answer(page).split()) > 20
    facts = page.locator("[data-side=a] .facts").inner_text()
    assert "9 + 96 tokens" in facts
    assert "tokens/s" in facts
    assert "max_tokens reached" in facts


def test_tokens_are_shown_as_they_come(new_page, engine, expect):
    go_on = threading.Event()

    def script(request):
        for output in write_tokens(request, ByteTokenizer().encode("abcdefghijkl")):
            yield output
            go_on.wait(60)

    engine.script = script
    page = new_page(fragment=link("p", a_max_tokens=12))
    try:
        page.click("#run")
        expect(page.locator(".token")).to_have_text(["a"])
        expect(page.locator("#run")).to_contain_text("Stop")
        expect(page.locator("#status")).to_have_text("Writing …")
    finally:
        go_on.set()
    expect(page.locator("#status")).to_have_text(WRITTEN)
    assert page.locator(".token").all_inner_texts() == list("abcdefghijkl")


@pytest.mark.parametrize("how", ["button", "key"])
def test_a_run_is_stopped_on_the_server_too(new_page, engine, expect, how):
    page = new_page(fragment=link("forever", a_logprobs="", a_max_tokens=9))
    page.click("#run")
    expect(page.locator("[data-side=a] .text")).to_contain_text("....")
    page.click("#run") if how == "button" else page.keyboard.press("Escape")
    assert engine.wait_until(lambda: len(engine.cancelled) == 1 and not engine.active)
    expect(page.locator("#status")).to_have_text("Stopped.")
    expect(page.locator("[data-side=a] .facts")).to_contain_text("stopped")
    expect(page.locator("#run")).to_contain_text("Write")
    expect(page.locator("[data-side=a] .problem")).to_be_hidden()
    assert answer(page).startswith("....")


@pytest.mark.parametrize("logprobs", ["", "0", "3"])
@pytest.mark.parametrize("echo", ["true", "false"])
def test_the_text_is_the_servers(new_page, scripted, engine, logprobs, echo):
    """In tokens or not: also where a token is a part of a character, or a character two units."""
    prompt = "aé日z\n\u2028😀"
    page = new_page(
        fragment=link(prompt, a_max_tokens=40, a_seed=3, a_logprobs=logprobs, a_echo=echo)
    )
    write(page)
    body = {"prompt": prompt, "max_tokens": 40, "seed": 3, "echo": echo == "true"}
    told = httpx.post(scripted.url + "/v1/completions", json=body).json()["choices"][0]["text"]
    assert answer(page) == told
    assert (page.locator(".token").count() > 0) == (logprobs != "")


def scores(*tokens, start=0):
    offsets = [start + sum(len(each) for each, _ in tokens[:i]) for i in range(len(tokens))]
    return {
        "tokens": [token for token, _ in tokens],
        "token_logprobs": [score for _, score in tokens],
        "top_logprobs": [
            None if score is None else {token: score, "42": -3.0, " other": -0.5}
            for token, score in tokens
        ],
        "text_offset": offsets,
    }


PROBABILITIES = [("six", -0.01), (" words", -0.5), (" of", -1.2), (" all", -2.5), (" the", -4.0)]
TOKENS = [("first", None), *PROBABILITIES, (" steps", -9.0)]
TEXT = "".join(token for token, _ in TOKENS)


@pytest.fixture
def six(new_page):
    """A page with one token of each step of probability, after one without any."""

    def open_page(**options):
        page = new_page(**options)
        answer_with(page, event(TEXT, logprobs=scores(*TOKENS)), event(finish_reason="length"))
        write(page)
        return page

    return open_page


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_tokens_have_the_colour_of_their_probability(six, scheme):
    page = six(color_scheme=scheme)
    colours = page.locator(".token").evaluate_all(
        "(all) => all.map((each) => getComputedStyle(each).backgroundColor)"
    )
    legend = page.locator(".swatch").evaluate_all(
        "(all) => all.map((each) => getComputedStyle(each).backgroundColor)"
    )
    assert colours[0] == "rgba(0, 0, 0, 0)"
    assert colours[1:] == legend
    assert len(set(colours)) == 7


def test_alternatives_show_on_hover_and_go_away(six, expect):
    page = six()
    tip = page.locator("#tip")
    expect(tip).to_be_hidden()
    page.locator(".token").nth(3).hover()
    expect(tip.locator("li")).to_have_text(["␣other60.7 %", "␣of30.1 %", "425.0 %"])
    expect(tip.locator(".chosen")).to_have_text("␣of30.1 %")
    expect(tip).to_contain_text("logprob -1.200")
    tip.hover()  # the pointer may go on to the tip
    expect(tip).to_be_visible()
    page.mouse.move(5, 5)
    expect(tip).to_be_hidden()


def test_alternatives_show_on_tap(six, expect):
    page = six(has_touch=True, viewport={"width": 360, "height": 740})
    page.locator(".token").nth(2).tap()
    expect(page.locator("#tip .chosen")).to_contain_text("␣words")
    page.locator(".token").nth(4).tap()
    expect(page.locator("#tip .chosen")).to_contain_text("␣all")


def test_alternatives_are_reached_by_keyboard(six, expect):
    page = six()
    token, tip = page.locator(".token"), page.locator("#tip")
    page.locator("#compare").focus()
    page.keyboard.press("Tab")
    expect(token.nth(0)).to_be_focused()
    expect(tip).to_contain_text("nothing came before it")
    page.keyboard.press("ArrowRight")
    expect(token.nth(1)).to_be_focused()
    expect(token.nth(1)).to_have_accessible_description(re.compile("^six 99.0 % .* ␣other 60.7 %"))
    page.keyboard.press("End")
    expect(token.nth(6)).to_be_focused()
    page.keyboard.press("ArrowRight")
    expect(token.nth(6)).to_be_focused()
    page.keyboard.press("Escape")
    expect(tip).to_be_hidden()
    expect(token.nth(6)).to_be_focused()
    page.keyboard.press("Home")
    expect(tip).to_be_visible()
    page.keyboard.press("Tab")  # one stop for the whole answer
    expect(page.locator("[data-copy=text]").first).to_be_focused()
    expect(tip).to_be_hidden()


def test_tokens_without_text_are_shown_by_name(new_page, engine):
    page = new_page(fragment=link("end", a_max_tokens=9))
    write(page)
    assert answer(page) == "fin"
    assert page.locator(".token").last.get_attribute("data-unseen") == "</s>"


def test_several_answers_each_have_their_place(new_page, engine, scripted, expect):
    page = new_page(fragment=link("some", a_n=3, a_max_tokens=8, a_seed=1))
    write(page)
    expect(page.locator(".choice h3")).to_have_text(["1 of 3", "2 of 3", "3 of 3"])
    body = {"prompt": "some", "n": 3, "max_tokens": 8, "seed": 1}
    told = httpx.post(scripted.url + "/v1/completions", json=body).json()["choices"]
    assert [len(choice["text"]) > 0 for choice in told] == [True] * 3
    for choice, shown in zip(told, page.locator(".text").all(), strict=True):
        assert shown.inner_text().replace("\n", "").endswith(choice["text"].replace("\n", "")[-3:])


def test_the_best_of_many_come_whole(new_page, engine, expect):
    engine.script = lambda request: write_tokens(request, ByteTokenizer().encode("abc"))
    page = new_page(fragment=link("best", a_best_of=4, a_max_tokens=3))
    with page.expect_request("**/v1/completions") as asked:
        write(page)
    assert "stream" not in asked.value.post_data_json
    assert answer(page) == "abc"
    assert len(engine.submitted) == 4


def test_what_is_sent_is_what_was_set(new_page, engine):
    """Every field reaches the request; what has its default is left out."""
    values = {
        "temperature": 0.5, "top_p": 0.4, "top_k": 7, "min_p": 0.02, "seed": -5, "max_tokens": 9,
        "min_tokens": 2, "repetition_penalty": 1.1, "presence_penalty": 0.2,
        "frequency_penalty": -0.3, "n": 2, "best_of": 2, "logprobs": 1, "echo": True,
    }  # fmt: skip
    page = new_page(fragment=link(" p ", a_temperature=1, a_logprobs="", a_top_p=1))
    for name in ("Repetition and bias", "Answers and scores"):
        page.get_by_text(name).click()
    for name, value in values.items():
        page.locator(f"#{name}").check() if value is True else page.fill(f"#{name}", str(value))
    page.fill("#stop", "\\n\\n\nEnd: \\\\")
    page.fill("#logit_bias", "50: -1.5\n60 = 2")
    asked = answer_with(page, event("x", finish_reason="stop"))
    write(page)
    assert asked[0].post_data_json == {
        **values,
        "model": "scripted",
        "prompt": " p ",
        "stop": ["\n\n", "End: \\"],
        "logit_bias": {"50": -1.5, "60": 2},
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    page.click("#reset")
    page.fill("#logprobs", "")
    page.fill("#temperature", "1")
    page.fill("#top_p", "1")
    page.fill("#max_tokens", "16")
    write(page)
    sent = asked[1].post_data_json
    assert set(sent) == {"model", "prompt", "seed", "stream", "stream_options"}
    assert f"seed {sent['seed']}" in page.locator("[data-side=a] .facts").inner_text()


def test_events_may_be_cut_anywhere(new_page):
    """The parser's law: however the bytes are cut, the events are the same."""
    page = new_page()
    text = (
        'data: {"a": "é😀\\n"}\r\n\r\n: a comment\n\n'
        "data: one\ndata:two\n\ndata: [DONE]\n\ndata: cut"
    )
    for size in (1, 2, 3, 7, 1000):
        got = page.evaluate(
            """async ([text, size]) => {
              const { events } = await import("./playground/sse.js");
              const bytes = new TextEncoder().encode(text);
              const body = new ReadableStream({ start(controller) {
                for (let i = 0; i < bytes.length; i += size)
                  controller.enqueue(bytes.slice(i, i + size));
                controller.close();
              } });
              const all = [];
              for await (const data of events(body)) all.push(data);
              return all;
            }""",
            [text, size],
        )
        assert got == [json.dumps({"a": "é😀\n"}, ensure_ascii=False), "one\ntwo", "[DONE]"]
