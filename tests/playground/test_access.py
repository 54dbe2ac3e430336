"""For every eye, hand and window, and safe from every text: in a real browser."""

from __future__ import annotations

import json
import re

import pytest
from pages import answer, answer_with, event, link, write

pytestmark = [pytest.mark.browser, pytest.mark.timeout(180)]

EVIL = "<script>window.hit = 1</script><img src=x onerror='window.hit = 1'>\"'>"
WORDS = ["un", "brok", "en" * 60, " 日本語", " and", "\n\n", " so", " on", "."] * 4


def logprobs(tokens):
    starts = [sum(len(each) for each in tokens[:i]) for i in range(len(tokens))]
    tops = [{token: -0.1 - i / 3, " other": -2.0, "?" * 90: -5} for i, token in enumerate(tokens)]
    return {
        "tokens": tokens,
        "token_logprobs": [top[token] for token, top in zip(tokens, tops, strict=True)],
        "top_logprobs": tops,
        "text_offset": starts,
    }


def written(new_page, tokens=WORDS, fragment="", **options):
    page = new_page(fragment=fragment or link("A prompt"), **options)
    answer_with(
        page, event("".join(tokens), logprobs=logprobs(tokens)), event(finish_reason="stop")
    )
    write(page)
    return page


def shade(page):
    return page.evaluate("() => getComputedStyle(document.body).backgroundColor")


def test_light_and_dark_follow_the_system_or_the_choice(new_page, expect):
    light, dark = shade(new_page(color_scheme="light")), shade(new_page(color_scheme="dark"))
    assert light != dark
    page = new_page(color_scheme="dark")
    button = page.locator("#theme")
    for text, colour in (("light", light), ("dark", dark), ("auto", dark), ("light", light)):
        button.click()
        expect(button).to_have_text(f"Theme: {text}")
        assert shade(page) == colour
    page.reload()
    expect(button).to_have_text("Theme: light")
    assert shade(page) == light


@pytest.mark.parametrize("width", [360, 768, 1024, 1600])
@pytest.mark.parametrize("compare", [0, 1])
def test_no_window_scrolls_sideways(new_page, width, compare):
    page = written(
        new_page,
        fragment=link("A prompt " + "x" * 300, compare=compare, b_top_p=0.1, b_stop="s" * 99),
        viewport={"width": width, "height": 740},
        has_touch=width == 360,
    )
    for group in ("Repetition and bias", "Answers and scores", "API key"):
        page.get_by_text(group).first.click()
    page.locator(".token").nth(2).click()
    tip = page.locator("#tip").bounding_box()
    assert tip["x"] >= 0
    assert tip["x"] + tip["width"] <= width
    assert page.evaluate("() => document.documentElement.scrollWidth") <= width


def test_on_a_phone_running_and_settings_are_in_reach(new_page, expect):
    page = written(new_page, viewport={"width": 360, "height": 640}, has_touch=True)
    for y in (0, 400, 3000):
        page.evaluate("(y) => scrollTo(0, y)", y)
        expect(page.locator("#run")).to_be_in_viewport(ratio=1)
    page.evaluate("() => scrollTo(0, 0)")
    page.locator("#to-settings").tap()
    expect(page.get_by_role("heading", name="Settings")).to_be_in_viewport()
    for control in page.locator("button:visible, a:visible, summary:visible").all():
        box = control.bounding_box()
        assert box["height"] >= 24, control.inner_text()
        assert box["width"] >= 24, control.inner_text()


def test_everything_is_reached_by_keyboard_and_seen(new_page, engine, expect):
    page = new_page(fragment=link("p", a_max_tokens=4, compare=1, b_max_tokens=4))
    for group in ("Repetition and bias", "Answers and scores", "API key"):
        page.get_by_text(group).first.press("Enter")
    page.locator("#prompt").focus()
    page.keyboard.press("Control+Enter")
    expect(page.locator("#status")).to_have_text("The answer is written.")
    wanted = page.evaluate(
        """() => {
          const kinds = "a[href], button, input, textarea, summary, .token";
          const all = document.querySelectorAll(kinds);
          let number = 0;
          return [...all].filter((each) => each.checkVisibility() && each.tabIndex === 0
            && !(each.type === "radio" && !each.checked)).map((each) => {
              each.dataset.stop = String(number);
              return String(number++);
            });
        }"""
    )
    page.evaluate("() => { document.activeElement.blur(); getSelection().removeAllRanges(); }")
    reached = []
    for _ in range(len(wanted) + 3):
        page.keyboard.press("Tab")
        stop, visible = page.evaluate(
            """() => {
              const here = document.activeElement;
              const shown = here.type === "radio" ? here.nextElementSibling : here;
              const style = getComputedStyle(shown);
              const drawn = style.outlineStyle !== "none" && parseFloat(style.outlineWidth) >= 2;
              return [here.dataset.stop, drawn];
            }"""
        )
        if stop is not None:
            assert visible, stop
            reached.append(stop)
    assert set(reached) == set(wanted)
    assert len(wanted) > 40


def test_texts_from_the_model_stay_texts(new_page, expect):
    page = written(new_page, [EVIL, "<b>", "</b>", "&amp;"], link(EVIL))
    assert answer(page) == EVIL + "<b></b>&amp;"
    page.locator(".token").first.hover()
    expect(page.locator("#tip .chosen code")).to_have_text(EVIL.replace(" ", "␣"))
    harmless(page)


def test_texts_without_tokens_stay_texts(new_page):
    page = new_page(fragment=link(EVIL, a_logprobs="", a_stop=EVIL, compare=1, b_logit_bias=EVIL))
    answer_with(page, event(EVIL), event(finish_reason=EVIL))
    page.click("#run")
    page.wait_for_selector("[data-side=a] .facts >> text=window.hit")
    assert answer(page) == EVIL
    harmless(page)


def test_names_and_errors_stay_texts(new_page, expect):
    page = new_page()
    page.route(
        "**/v1/models",
        lambda route: route.fulfill(json={"data": [{"id": EVIL, "max_model_len": EVIL}]}),
    )
    page.route(
        "**/v1/completions",
        lambda route: route.fulfill(
            status=400, json={"error": {"message": EVIL, "param": "top_p", "type": EVIL}}
        ),
    )
    page.reload()
    expect(page.locator("#model strong")).to_have_text(EVIL)
    page.click("#run")
    expect(page.locator("[data-side=a] .problem")).to_have_text(EVIL)
    expect(page.locator("#top_p-problem")).to_have_text(EVIL)
    harmless(page)


def harmless(page):
    assert page.evaluate("() => window.hit") is None
    assert page.locator("main img, main script, .tip img, .bar script").count() == 0


def test_the_policy_stops_what_would_get_in(browser, scripted):
    """Were a text ever made into markup, the browser itself would refuse it."""
    page = browser.new_page(base_url=scripted.url)
    page.goto("/")
    refused = page.evaluate(
        """() => {
          try { document.createElement("div").innerHTML = "<b>x</b>"; return "taken"; }
          catch (error) { return error.name; }
        }"""
    )
    page.close()
    assert refused == "TypeError"


STATES = {
    "at first": lambda page, expect: None,
    "written, with a tip": lambda page, expect: (
        answer_with(page, event("".join(WORDS), logprobs=logprobs(WORDS)), event()),
        write(page),
        page.locator(".token").nth(4).click(),
        expect(page.locator("#tip")).to_be_visible(),
    ),
    "two sides, a refusal, all groups open": lambda page, expect: (
        page.get_by_role("switch", name="Compare").check(),
        page.fill("#top_p", "3"),
        *(
            page.get_by_text(text).first.click()
            for text in ("Repetition and", "Answers and", "API")
        ),
        page.click("#run"),
        expect(page.locator("[data-side=b] .problem")).to_be_visible(),
        expect(page.locator("#run")).to_contain_text("Write"),
    ),
}


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1280])
def test_axe_finds_nothing(new_page, engine, expect, state, scheme, width):
    from axe_playwright_python.sync_playwright import Axe

    page = new_page(
        fragment=link("p", a_max_tokens=9),
        color_scheme=scheme,
        reduced_motion="reduce",
        viewport={"width": width, "height": 800},
        bypass_csp=True,  # the checker's own script is a string
    )
    STATES[state](page, expect)
    found = Axe().run(page).response
    assert found["testEngine"]["name"] == "axe-core"
    assert len(found["passes"]) > 20 or "passes" not in found
    problems = [
        (each["impact"], each["id"], node["html"][:200], node.get("failureSummary"))
        for each in found["violations"]
        for node in each["nodes"]
    ]
    assert problems == [], json.dumps(problems, indent=1)


def test_axe_would_find_something(new_page):
    from axe_playwright_python.sync_playwright import Axe

    page = new_page(bypass_csp=True)
    page.evaluate("() => document.querySelector('label[for=prompt]').remove()")
    page.evaluate("() => { document.querySelector('#prompt').placeholder = ''; }")
    found = Axe().run(page).response["violations"]
    assert "label" in {each["id"] for each in found}
    assert re.fullmatch("critical|serious", found[0]["impact"])
