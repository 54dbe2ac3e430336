"""The page holds what the report says, needs nothing else, and trusts no name."""

from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from damage import fill, plant, scan

from unshard.health.findings import Finding, HealthReport, Place
from unshard.health.html_report.page import render_page

VOID = {"meta", "input"}
HOSTILE = "</title></style><script>alert(1)</script><img src=x onerror='alert(1)'>\"&"


class Page(HTMLParser):
    """Tags, attributes and text of a page whose elements nest properly."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.attributes: list[tuple[str, str]] = []
        self.ids: set[str] = set()
        self.text = ""
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes += [(key, value or "") for key, value in attrs]
        self.ids |= {value for key, value in attrs if key == "id" and value}
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture
def corrupt(folder: Path) -> HealthReport:
    plant(folder, "decoder.layers.3.fc1.weight", 0, {7: 0x7E00, 9: 0x7000})
    return scan(folder)


def test_the_page_says_what_the_report_says(corrupt: HealthReport) -> None:
    page = Page(render_page(corrupt, {"layout": "two parts"}))
    assert "Corrupt: 1 tensor" in page.text
    assert "two parts" in page.text
    for finding in corrupt.findings:
        assert finding.what in page.text
        for place in finding.places:
            assert f"{place.byte_offset:,}" in page.text
            assert Path(place.path).name in page.text
    for tensor in corrupt.tensors:
        assert f"{tensor.absmax:.3g}" in page.text


def test_a_healthy_page_says_so(folder: Path) -> None:
    assert "Healthy" in Page(render_page(scan(folder), {})).text


def test_it_needs_nothing_else(corrupt: HealthReport) -> None:
    text = render_page(corrupt, {})
    page = Page(text)
    assert not page.tags & {"script", "link", "img", "iframe", "object", "base", "form"}
    for key, value in page.attributes:
        assert not key.startswith("on")
        assert key not in {"src", "srcset", "action"}
        if key == "href":
            assert value.removeprefix("#") in page.ids
    assert "url(" not in text
    assert "http" not in text.replace("http-equiv", "")


def test_hostile_names_stay_text(corrupt: HealthReport) -> None:
    place = Place(f"/tmp/{HOSTILE}.pt", 5, (1, 2), 1.0)
    hostile = HealthReport(
        source=HOSTILE,
        tensors=(replace(corrupt.tensors[0], name=HOSTILE), *corrupt.tensors),
        limits={**corrupt.limits, HOSTILE: corrupt.limits[corrupt.tensors[0].name]},
        findings=(Finding("corrupt", "nan", HOSTILE, HOSTILE, 1, (place,)),),
        num_bytes=1,
        num_bytes_again=1,
    )
    page = Page(render_page(hostile, {HOSTILE: HOSTILE}))
    assert not page.tags & {"script", "img"}
    assert not any(key.startswith("on") for key, _ in page.attributes)
    assert page.text.count(HOSTILE) >= 6
    assert page.tags == Page(render_page(corrupt, {"a": "b"})).tags


def test_a_large_model_makes_a_page_of_a_reasonable_size(corrupt: HealthReport) -> None:
    """96 layers of 16 tensors, as OPT-175B has."""
    [*layer] = (each for each in corrupt.tensors if each.name.startswith("decoder.layers.3."))
    named = {
        each.name.replace("layers.3.", f"layers.{number}."): each
        for number in range(96)
        for each in layer
    }
    large = replace(
        corrupt,
        tensors=tuple(replace(each, name=name) for name, each in named.items()),
        limits={name: corrupt.limits[each.name] for name, each in named.items()},
        findings=(),
    )
    assert len(large.tensors) == 96 * 16
    assert len(render_page(large, {}).encode()) < 3_000_000


def test_a_tensor_of_nothing_but_nan_and_one_of_zeros_have_a_card(
    folder: Path,
) -> None:
    fill(folder, "decoder.layers.3.fc1.weight", b"\x00\x7e")
    fill(folder, "decoder.layers.2.fc1.weight", b"\x00\x80")
    report = scan(folder)
    statistics = {tensor.name: tensor for tensor in report.tensors}
    assert np.isnan(statistics["decoder.layers.3.fc1.weight"].absmax)
    assert statistics["decoder.layers.2.fc1.weight"].absmax == 0
    text = Page(render_page(report, {})).text
    assert re.search(r"NaN\s*16,384", text)
