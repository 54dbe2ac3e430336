"""docs/playground.md: its links, pictures and commands exist, its names are the page's."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from unshard.server.playground import page_files

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGE = (DOCS / "playground.md").read_text()
PICTURES = re.findall(r'!\[.+\]\((.+)\)|<img src="(.+?)" .*alt=".+">', PAGE)


def test_its_links_lead_somewhere():
    for link in re.findall(r"\]\(([^)#]+)", PAGE):
        assert (DOCS / link).exists(), link
    assert "(docs/playground.md)" in (ROOT / "README.md").read_text()


@pytest.mark.parametrize("name", ["".join(found) for found in PICTURES])
def test_its_pictures_are_small(name):
    content = (DOCS / name).read_bytes()
    assert content.startswith(b"\x89PNG")
    assert len(content) < 150_000


def test_both_pictures_were_found():
    assert len(PICTURES) == 2


def test_its_targets_exist():
    makefile = (ROOT / "Makefile").read_text()
    targets = re.findall(r"^\$ make (\w+)", PAGE, re.MULTILINE)
    assert targets == ["demo", "browser"]
    assert all(re.search(rf"^{target}:", makefile, re.MULTILINE) for target in targets)


def test_its_names_are_on_the_page():
    index = page_files()["index.html"].content.decode()
    for name in re.findall(r"\*+([A-Z][\w ]+?)\*+(?!\.)", PAGE.replace("**", "*")):
        if f"*{name}.*" not in PAGE:
            assert f">{name}<" in re.sub(r"</?span[^>]*>", "", index).replace("> ", ">"), name
