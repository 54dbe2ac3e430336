"""What a visitor sets up, in a real browser: two settings, links, copied requests, the key."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading

import httpx
import pytest
from pages import answer, answer_with, event, link, write
from scripted_engine import ByteTokenizer
from scripted_engine import write as write_tokens

pytestmark = [pytest.mark.browser, pytest.mark.timeout(180)]

NASTY = """It's "quoted" $HOME `id` \\n\n'''é日😀\u2028 & <b>"""


def clipboard(page):
    return page.evaluate("() => navigator.clipboard.readText()")


def test_two_settings_stream_at_once_from_one_seed(new_page, engine, expect):
    both = threading.Event()
    begun = []

    def script(request):
        yield from write_tokens(request, ByteTokenizer().encode("ab"), finish_reason="length")

    def held(request):
        for output in script(request):
            yield output
            begun.append(request.request_id)
            if len(set(begun)) == 2:
                both.set()

    engine.script = held
    page = new_page(fragment=link("p", a_max_tokens=2))
    expect(page.locator("[data-side=b]")).to_be_hidden()
    page.get_by_role("switch", name="Compare").check()
    expect(page.locator("[data-side=b] .differences")).to_contain_text("same settings as A")
    page.fill("#temperature", "0.3")
    expect(page.locator("[data-side=a] .differences")).to_have_text("temperature 0.8")
    expect(page.locator("[data-side=b] .differences")).to_have_text("temperature 0.3")
    expect(page.locator(".other:not(:empty)")).to_have_text(["A: 0.8"])
    write(page)
    assert both.is_set()
    assert answer(page, "a") == answer(page, "b") == "ab"
    one, other = sorted((request.params for request in engine.submitted), key=str)
    assert {one.temperature, other.temperature} == {0.8, 0.3}
    assert one.seed == other.seed is not None


def test_neither_side_waits_for_the_other(new_page, engine, expect):
    """B is whole while A, which began first, is still being written."""
    go_on = threading.Event()

    def script(request):
        if request.params.temperature == 0.5:
            return slow(request)
        return write_tokens(request, ByteTokenizer().encode("quick"))

    def slow(request):
        # Steps without an end, so that the engine's one thread is never held up.
        while not go_on.is_set():
            yield from write_tokens(request, ByteTokenizer().encode("..."), finish_reason=None)
        yield from write_tokens(request, ByteTokenizer().encode("end"))

    engine.script = script
    fragment = link("p", a_temperature=0.5, a_logprobs="", b_logprobs="", compare=1)
    page = new_page(fragment=fragment + "&a.max_tokens=9&b.max_tokens=9")
    try:
        page.click("#run")
        expect(page.locator("[data-side=b] .facts")).to_contain_text("max_tokens reached")
        assert answer(page, "b") == "quick"
        expect(page.locator("[data-side=a] .text")).to_contain_text("...")
        expect(page.locator("#run")).to_contain_text("Stop")
    finally:
        go_on.set()
    expect(page.locator("[data-side=a] .text")).to_contain_text("end")


def test_each_side_has_its_own_refusal(new_page, engine, expect):
    page = new_page(fragment=link("p", a_max_tokens=3, b_max_tokens=3, b_top_p=2, compare=1))
    page.click("#run")
    expect(page.locator("[data-side=b] .problem")).to_contain_text("top_p")
    expect(page.locator("[data-side=a] .facts")).to_contain_text("max_tokens reached")
    expect(page.locator("[data-side=a] .problem")).to_be_hidden()


def test_a_link_holds_all_that_was_set_and_runs_nothing(new_page, engine, expect):
    page = new_page()
    page.fill("#prompt", NASTY)
    page.fill("#temperature", "0.35")
    page.fill("#seed", "-12")
    page.fill("#stop", "a b\n\\n")
    page.get_by_role("switch", name="Compare").check()
    page.fill("#top_k", "9")
    page.fill("#stop", "")
    page.get_by_text("API key").first.click()
    page.fill("#key", "sk-secret")
    page.click("#share")
    expect(page.locator("#toast")).to_have_text("Link copied")
    copied = clipboard(page)
    assert copied == page.url
    assert "secret" not in copied
    other = new_page(fragment=copied[copied.index("#") :])
    assert other.input_value("#prompt") == NASTY
    assert other.input_value("#temperature") == "0.35"
    assert other.input_value("#seed") == "-12"
    assert other.input_value("#stop") == "a b\n\\n"
    assert other.is_checked("#compare")
    other.locator("#sides").get_by_text("B").click()
    assert other.input_value("#top_k") == "9"
    assert other.input_value("#stop") == ""
    assert other.input_value("#temperature") == "0.35"
    assert engine.submitted == []
    other.click("#share")
    assert clipboard(other) == copied


def test_a_reload_and_a_pasted_link_are_taken(new_page, expect):
    page = new_page()
    page.fill("#prompt", "first")
    expect(page).to_have_url(re.compile("prompt=first"))
    page.reload()
    expect(page.locator("#prompt")).to_have_value("first")
    page.evaluate("() => { location.hash = '#prompt=second&a.top_k=3'; }")
    expect(page.locator("#prompt")).to_have_value("second")
    expect(page.locator("#top_k")).to_have_value("3")


@pytest.mark.parametrize(
    "fragment", ["#", "#nonsense", "#prompt=p&a.top_k=many&a.evil=1&c.top_k=2&__proto__.x=1&a.=%"]
)
def test_a_link_that_is_wrong_does_no_harm(new_page, expect, fragment):
    page = new_page(fragment=fragment)
    expect(page.locator("#top_k")).to_have_value("0")
    assert page.evaluate("() => ({}).x") is None


def output_of(*command, **environment):
    return subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
        env={**os.environ, **environment},
    )


def settled(demo_url, new_page, **values):
    """A page of the bundled model that has answered to a nasty prompt, and the answer."""
    page = new_page(demo_url, link(NASTY, a_max_tokens=12, **values))
    write(page)
    return page, answer(page)


@pytest.mark.parametrize("values", [{"a_seed": 5}, {}, {"a_top_k": 30, "a_min_p": 0.01, "a_n": 2}])
def test_copied_commands_give_the_same_answer(new_page, demo_url, values, expect, tmp_path):
    """Also where the seed was drawn: the command holds the one that was."""
    page, text = settled(demo_url, new_page, **values)
    page.fill("#prompt", "changed since; what is shown is copied")
    page.get_by_role("button", name="as curl").first.click()
    expect(page.locator("#toast")).to_have_text("Command copied")
    command = clipboard(page)
    assert "stream" not in command
    run = output_of("bash", "-c", command)
    assert httpx.Response(200, text=run.stdout).json()["choices"][0]["text"] == text
    page.get_by_role("button", name="as Python").first.click()
    expect(page.locator("#toast")).to_have_text("Program copied")
    program = tmp_path / "program.py"
    program.write_text(clipboard(page), encoding="utf-8")
    run = output_of(sys.executable, program)
    assert run.stderr == ""
    assert run.stdout.startswith(text + "\n")


def test_text_is_copied_as_it_is(new_page, demo_url, expect):
    page, text = settled(demo_url, new_page, a_seed=1)
    page.get_by_role("button", name="Copy text").first.click()
    expect(page.locator("#toast")).to_have_text("Text copied")
    assert clipboard(page) == text


def test_copying_works_without_the_clipboards_new_way(new_page, engine, expect):
    """Browsers have that one only on https and on this machine itself."""
    page = new_page(fragment=link("p", a_max_tokens=4, a_seed=2))
    page.evaluate("() => Object.defineProperty(navigator, 'clipboard', { value: undefined })")
    page.locator("#share").focus()
    page.keyboard.press("Enter")
    expect(page.locator("#toast")).to_have_text("Link copied")
    expect(page.locator("#share")).to_be_focused()


def test_the_key_is_sent_and_told_nobody(new_page, engine, expect, scripted):
    page = new_page(fragment=link("p", a_max_tokens=3))
    refusal = {"error": {"message": "no key", "type": "t", "param": None, "code": None}}

    def guard(route):
        if route.request.headers.get("authorization") == "Bearer sk-secret":
            return route.continue_()
        return route.fulfill(status=401, json=refusal)

    page.route("**/v1/**", guard)
    page.reload()
    expect(page.locator("#model")).to_contain_text("The server wants an API key")
    page.click("#run")
    expect(page.locator("[data-side=a] .problem")).to_contain_text("enter it under Settings")
    page.fill("#key", "sk-secret")
    page.keyboard.press("Tab")
    expect(page.locator("#model")).to_contain_text("scripted · 64 tokens of context")
    write(page)
    page.get_by_role("button", name="as curl").click()
    assert '"Authorization: Bearer $UNSHARD_API_KEY"' in clipboard(page)
    assert "secret" not in clipboard(page)
    page.get_by_role("button", name="as Python").click()
    assert 'os.environ["UNSHARD_API_KEY"]' in clipboard(page)
    assert "secret" not in clipboard(page) + page.url
    stored = page.evaluate("() => [{ ...localStorage }, { ...sessionStorage }]")
    assert "secret" not in str(stored[0])
    assert "sk-secret" in str(stored[1])
    page.reload()
    expect(page.locator("#key")).to_have_value("sk-secret")
    assert new_page().input_value("#key") == ""


def test_a_copied_command_takes_the_key_from_the_environment(new_page, scripted, engine):
    page = new_page(fragment=link("p", a_max_tokens=3, a_seed=1))
    page.get_by_text("API key").first.click()
    page.fill("#key", "sk-secret")
    page.keyboard.press("Tab")
    page.get_by_role("button", name="as curl").click()
    command = clipboard(page).replace("curl ", "curl -sv ", 1)
    run = output_of("bash", "-c", command, UNSHARD_API_KEY="sk-other")
    assert "Authorization: Bearer sk-other" in run.stderr
    assert '"choices"' in run.stdout


@pytest.mark.parametrize("kind", ["News", "Paper", "Chat", "Question", "Verse"])
def test_every_example_is_answered_by_the_bundled_model(new_page, demo_url, kind):
    page = new_page(demo_url)
    page.get_by_role("button", name=kind).click()
    page.fill("#max_tokens", "8")
    write(page)
    assert answer(page)


def test_examples_keep_what_two_sides_differ_in(new_page, expect):
    page = new_page(fragment=link("p", a_temperature=0.1, b_temperature=1.9, compare=1))
    page.get_by_role("button", name="Chat").click()
    expect(page.locator("#stop")).to_have_value("\\nTraveller:")
    expect(page.locator("#temperature")).to_have_value("0.1")
    page.locator("#sides").get_by_text("B").click()
    expect(page.locator("#stop")).to_have_value("\\nTraveller:")
    expect(page.locator("#temperature")).to_have_value("1.9")


def test_sliders_and_numbers_go_together(new_page, expect):
    page = new_page()
    slider = page.get_by_label("top_p, slider")
    slider.fill("0.5")
    expect(page.locator("#top_p")).to_have_value("0.5")
    page.fill("#top_p", "0.25")
    expect(slider).to_have_value("0.25")
    expect(page.get_by_label("max_tokens, slider")).to_have_attribute("max", "64")
    page.get_by_text("Answers and scores").click()
    page.fill("#logprobs", "")  # empty is no slider's value: it is not sent
    asked = answer_with(page, event("x", finish_reason="stop"))
    write(page)
    assert "logprobs" not in asked[0].post_data_json
