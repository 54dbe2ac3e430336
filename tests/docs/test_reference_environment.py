"""docs/reference/environment.md: every variable that the code reads or sets, and no other."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src/unshard"
PAGE = ROOT / "docs/reference/environment.md"
VARIABLE = re.compile(r"[A-Z][A-Z_]+")


@cache
def texts() -> list[str]:
    return [path.read_text() for path in sorted(SOURCE.rglob("*.py"))]


@cache
def module(text: str) -> ast.Module:
    return ast.parse(text)


def modules(pattern: str) -> list[ast.Module]:
    """Those with `pattern` in their text: to parse all takes seconds."""
    return [module(text) for text in texts() if re.search(pattern, text)]


def is_environment(node: ast.expr) -> bool:
    """`os.environ`, or a parameter that is one."""
    match node:
        case ast.Attribute(attr="environ") | ast.Name(id="environ" | "environment"):
            return True
    return False


def keys(module: ast.Module) -> Iterator[ast.expr]:
    """What the environment is asked for, in every way of asking."""
    for node in ast.walk(module):
        match node:
            case ast.Call(func=ast.Attribute(value=asked), args=[key, *_]) if is_environment(asked):
                yield key
            case ast.Call(func=ast.Attribute(attr="getenv"), args=[key, *_]):
                yield key
            case ast.Subscript(value=asked, slice=key) if is_environment(asked):
                yield key
            case ast.Compare(left=key, ops=[ast.In()], comparators=[asked]) if is_environment(
                asked
            ):
                yield key


def strings(name: str, user: ast.Module) -> Iterator[str]:
    """All strings that `name` may stand for: given to it here, or to the elements of a tuple that
    is run through; else a constant of another module."""
    givers = modules(rf"\b{name}s? = ")
    for each in (user, *givers):
        found = [
            constant.value
            for node in ast.walk(each)
            if isinstance(node, ast.Assign)
            and isinstance(node.targets[0], ast.Name)
            and node.targets[0].id in {name, f"{name}s"}
            for constant in ast.walk(node.value)
            if isinstance(constant, ast.Constant) and isinstance(constant.value, str)
        ]
        if found:
            yield from found
            return


def variables() -> set[str]:
    found: set[str] = set()
    for user in modules("environ|getenv"):
        for key in keys(user):
            match key:
                case ast.Constant(value=str(name)):
                    found.add(name)
                case ast.Name(id=name):
                    found |= {each for each in strings(name, user) if VARIABLE.fullmatch(each)}
    return found


def table(title: str) -> set[str]:
    [_, text] = PAGE.read_text().split(f"\n## {title}\n")
    text = text.split("\n## ")[0]
    first = [line.split("|")[1] for line in text.splitlines() if line.startswith("| `")]
    return {name for cell in first for name in re.findall(r"`(\w+)`", cell)}


def test_every_variable_that_is_read_has_its_row() -> None:
    assert table("Read") == variables()


def test_every_variable_that_is_set_has_its_row() -> None:
    written = ast.parse((SOURCE / "parallel/rendezvous.py").read_text())
    [local] = [f for f in written.body if getattr(f, "name", "") == "local_environment"]
    given = {
        str(key.value)
        for node in ast.walk(local)
        if isinstance(node, ast.Dict)
        for key in node.keys
        if isinstance(key, ast.Constant)
    }
    assert table("Set") == given | {"UNSHARD_SERVES"}


def test_links_exist() -> None:
    for link in re.findall(r"\]\(([^)#]+)[^)]*\)", PAGE.read_text()):
        assert (PAGE.parent / link).exists(), link
