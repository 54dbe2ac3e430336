"""Pages of text alone: what they link to is there, headings included."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[2] / "docs"
PAGES = [
    "architecture.md",
    "log.md",
    "benchmarks.md",
    "anatomy.md",
    "reference/errors.md",
    "reference/cli.md",
]


def anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", h.lower()).replace(" ", "-") for h in headings}


@pytest.mark.parametrize("name", PAGES)
def test_links_exist(name: str) -> None:
    page = DOCS / name
    for link, section in re.findall(r"\]\(([^)#:]+)#?([^)]*)\)", page.read_text()):
        target = page.parent / link
        assert target.exists(), link
        assert not section or section in anchors(target), section


def test_the_number_of_the_originals_faults() -> None:
    table = (DOCS / "metaseq-commands.md").read_text().split("| | the original | unshard |\n")[1]
    rows = [line for line in table.split("\n\n")[0].splitlines() if not line.startswith("|---")]
    words = {15: "Fifteen", 14: "Fourteen", 16: "Sixteen"}
    assert f"{words[len(rows)]} places" in (DOCS / "log.md").read_text()


def test_every_page_is_led_to() -> None:
    pages = {page for page in DOCS.rglob("*.md") if "decisions" not in page.parts}
    led_to = {
        (page.parent / link).resolve()
        for page in pages | {DOCS.parent / "README.md"}
        for link in re.findall(r"\]\(([^)#:]+)", page.read_text())
    }
    index = DOCS / "README.md"
    assert pages - {index} <= led_to
