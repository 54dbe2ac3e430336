"""The page's files: how they are sent, that they hold nothing foreign, that no field is missing."""

from __future__ import annotations

import asyncio
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI

from unshard.engine.request import SamplingParams
from unshard.server import failures
from unshard.server import playground as module
from unshard.server.playground import playground
from unshard.server.protocol import CompletionRequest

FOLDER = Path(module.__file__).parent / "page"
TEXTS = {path.name: path.read_text() for path in FOLDER.iterdir()}
FIELDS = json.loads(TEXTS["fields.json"])
OF_OTHER_MATTERS = {"model", "prompt", "stream", "stream_options", "user", "suffix"}
EXACT = 2**53 - 1
"""The largest number that JavaScript counts up to without a gap."""


def ask(path: str, method: str = "GET", **headers: str) -> httpx.Response:
    app = FastAPI()
    failures.install(app)
    app.include_router(playground())

    async def answer() -> httpx.Response:
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://here") as client:
            return await client.request(method, path, headers=headers)

    return asyncio.run(answer())


@pytest.mark.parametrize(
    ("path", "media_type"),
    [
        ("/", "text/html; charset=utf-8"),
        ("/playground/main.js", "text/javascript; charset=utf-8"),
        ("/playground/base.css", "text/css; charset=utf-8"),
        ("/playground/fields.json", "application/json"),
        ("/playground/icon.svg", "image/svg+xml"),
    ],
)
def test_files_are_sent_as_what_they_are(path, media_type):
    answer = ask(path)
    assert answer.status_code == 200
    assert answer.headers["content-type"] == media_type
    assert answer.text == TEXTS[path.rpartition("/")[2] or "index.html"]
    assert answer.headers["x-content-type-options"] == "nosniff"
    head = ask(path, "HEAD")
    assert head.content == b""
    assert head.headers["content-length"] == str(len(answer.content))


def test_nothing_inline_and_nothing_foreign_may_run():
    policy = dict(
        directive.strip().split(" ", 1)
        for directive in ask("/").headers["content-security-policy"].split(";")
    )
    assert policy.pop("require-trusted-types-for") == "'script'"
    assert policy["default-src"] == "'none'"
    assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
    assert set(policy.values()) == {"'none'", "'self'"}


def test_a_file_that_the_client_has_is_not_sent_again():
    etag = ask("/").headers["etag"]
    again = ask("/", **{"if-none-match": f'"other", W/{etag}'})
    assert (again.status_code, again.content) == (304, b"")
    assert again.headers["etag"] == etag
    assert "content-security-policy" in again.headers
    assert ask("/", **{"if-none-match": '"other"'}).status_code == 200
    assert ask("/playground/main.js").headers["etag"] != etag


@pytest.mark.parametrize(
    "path",
    [
        *("/playground/", "/playground/nothing.js", "/playground/..%2f__init__.py"),
        *("/playground/%2e%2e/__init__.py", "/playground/page%2findex.html", "/main.js"),
        *("/playground/__init__.py", "/playground/main.js%00.html", "/playground//etc/passwd"),
    ],
)
def test_nothing_but_the_page_is_sent(path):
    answer = ask(path)
    assert answer.status_code == 404
    assert set(answer.json()) == {"error"}


class Markup(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.inline = ""
        self._within = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self._within = tag

    def handle_data(self, data: str) -> None:
        if self._within in {"script", "style"}:
            self.inline += data.strip()

    def handle_endtag(self, tag: str) -> None:
        self._within = ""


def test_no_script_or_style_is_inline():
    page = Markup(TEXTS["index.html"])
    assert page.inline == ""
    names = {name for _, attributes in page.elements for name in attributes}
    assert "style" not in names
    assert not [name for name in names if name.startswith("on")]


def test_every_file_is_asked_for_and_every_one_asked_for_is_there():
    links = [
        attributes[name]
        for _, attributes in Markup(TEXTS["index.html"]).elements
        for name in ("src", "href")
        if not (attributes.get(name) or "#").startswith("#")
    ]
    assert all(link.startswith("playground/") for link in links)
    asked = {link.removeprefix("playground/") for link in links}
    for name in ("fields.json", "examples.json"):
        assert f'load("{name}")' in TEXTS["main.js"]
        asked.add(name)
    for text in (text for name, text in TEXTS.items() if name.endswith(".js")):
        imported = re.findall(r'from "([^"]+)"', text)
        assert all(each.startswith("./") for each in imported)
        asked.update(each.removeprefix("./") for each in imported)
    assert asked | {"index.html"} == set(TEXTS)


@pytest.mark.parametrize("name", TEXTS)
def test_no_file_names_another_host(name):
    text = TEXTS[name].replace('xmlns="http://www.w3.org/2000/svg"', "")
    assert not re.search(r"https?://|wss?://|[\"'(]//|@import|\burl\(", text)


@pytest.mark.parametrize("name", [name for name in TEXTS if name.endswith(".js")])
def test_no_text_can_become_markup(name):
    sinks = r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|new Function|srcdoc"
    assert not re.search(sinks + r"|DOMParser|createContextualFragment|setHTML", TEXTS[name])


def test_every_field_of_the_request_has_a_control_in_a_group_of_the_page():
    names = [field["name"] for field in FIELDS]
    assert len(set(names)) == len(names)
    assert set(names) == CompletionRequest.model_fields.keys() - OF_OTHER_MATTERS
    groups = {f'id="group-{field["group"]}"' for field in FIELDS}
    assert all(group in TEXTS["index.html"] for group in groups)
    assert all(field["help"].endswith(".") for field in FIELDS)


KEYWORDS = {"minimum": "min", "exclusiveMinimum": "above", "maximum": "max"}
"""What JSON Schema and the page call a bound."""


@pytest.mark.parametrize("field", FIELDS, ids=[field["name"] for field in FIELDS])
def test_ranges_are_those_of_the_request(field):
    schema = CompletionRequest.model_json_schema()["properties"][field["name"]]
    bounds = [form for form in schema["anyOf"] if form.get("type") in {"number", "integer"}]
    found = {KEYWORDS[word]: form[word] for form in bounds for word in KEYWORDS & form.keys()}
    if field["name"] == "seed":
        found = {"min": -EXACT, "max": EXACT}
    assert {key: field[key] for key in ("min", "above", "max") if key in field} == found
    if "slide" in field:
        low, high, _ = field["slide"]
        for value in (low, high):
            CompletionRequest(**{"prompt": "p", field["name"]: value})


@pytest.mark.parametrize("field", FIELDS, ids=[field["name"] for field in FIELDS])
def test_defaults_are_those_of_the_server(field):
    """A field at its default is not sent, so the page must mean the same by it."""
    given = getattr(SamplingParams(), field["name"], None)
    usual = {"stop": (), "logit_bias": (), "n": 1, "echo": False}.get(field["name"], given)
    told = field["default"]
    assert usual == (() if told is None and usual == () else 1 if field["name"] == "n" else told)


def test_there_are_five_examples_whose_settings_the_server_takes():
    examples = json.loads(TEXTS["examples.json"])
    assert [each["kind"] for each in examples] == ["News", "Paper", "Chat", "Question", "Verse"]
    for each in examples:
        CompletionRequest(prompt=each["prompt"], **each["settings"])
        assert not each["prompt"].endswith(" ")
