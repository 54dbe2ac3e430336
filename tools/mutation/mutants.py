"""Mutants of a module: copies of its source with one small fault each, in a function's body.

Faults: another comparison, another operator, `and` for `or`, a number one more or less, a
condition negated, a return of nothing, a statement left out. Texts, types, what an exception is
told, the `strict` of a `zip` and what runs on import stay as they are.
"""

from __future__ import annotations

import ast
import copy
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

OPPOSITE: dict[type[ast.AST], type[ast.AST]] = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq, ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In,
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.FloorDiv, ast.FloorDiv: ast.Mult,
    ast.Mod: ast.Mult, ast.LShift: ast.RShift, ast.RShift: ast.LShift, ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd, ast.And: ast.Or, ast.Or: ast.And, ast.Pow: ast.Mult,
}  # fmt: skip
TYPES = frozenset({"annotation", "returns", "decorator_list"})
Placed = ast.stmt | ast.expr | ast.keyword
"""What has a line."""
LEFT_ALONE = (ast.Pass, ast.FunctionDef, ast.ClassDef, ast.Raise, ast.Return, ast.Global)


@dataclass(frozen=True, slots=True)
class Mutant:
    """One fault: `line` and `what` say it, `tree` is the whole module with it."""

    path: Path
    line: int
    what: str
    tree: ast.Module

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.what}"


def faults_of(tree: ast.Module) -> list[tuple[int, str]]:
    """All faults that a module can be given: the place in it, and what to do there."""
    return [(at, what) for at, (node, _) in enumerate(_sites(tree)) for what in _faults(node)]


def mutant(path: Path, tree: ast.Module, at: int, what: str) -> Mutant:
    """The module `tree` of the file `path` with one of its faults."""
    changed = copy.deepcopy(tree)
    node, parent = list(_sites(changed))[at]
    before = _text(node)
    new = _apply(node, what)
    if new is not node:
        _put(parent, node, new)
    after = _text(new)
    saying = f"{what}: {before}" + (f"  ->  {after}" if after != before else "")
    return Mutant(path, new.lineno, saying, ast.fix_missing_locations(changed))


def _sites(tree: ast.AST, *, inside: bool = False) -> Iterator[tuple[Placed, ast.AST]]:
    """The nodes of functions' bodies, each with the node above it."""
    for field, value in ast.iter_fields(tree):
        for child in value if isinstance(value, list) else [value]:
            if not isinstance(child, ast.AST) or field in TYPES or _says_nothing(child):
                continue
            if inside and isinstance(child, ast.stmt | ast.expr | ast.keyword):
                yield child, tree
            yield from _sites(child, inside=inside or isinstance(tree, ast.FunctionDef))


def _says_nothing(node: ast.AST) -> bool:
    """Whether faults below the node are in what people read, or in a guard against ourselves."""
    match node:
        case ast.Raise() | ast.keyword(arg="strict"):
            return True
        case ast.Call(func=ast.Name(name)):
            return name.endswith("Error")
    return False


def _faults(node: ast.AST) -> Iterator[str]:
    match node:
        case ast.Compare():
            yield from (f"compare {i}" for i, op in enumerate(node.ops) if type(op) in OPPOSITE)
        case ast.BinOp() | ast.BoolOp() | ast.AugAssign() if type(node.op) in OPPOSITE:
            yield "operator"
        case ast.Constant(value=bool()):
            yield "flip"
        case ast.Constant(value=int()):
            yield "one more"
            yield "one less"
        case ast.If() | ast.While() | ast.IfExp():
            yield "negate"
        case ast.Return(value=ast.AST()) if not _is_none(node.value):
            yield "return nothing"
    if isinstance(node, ast.stmt) and not isinstance(node, LEFT_ALONE) and not _is_docstring(node):
        yield "leave out"


def _apply(node: Placed, what: str) -> Placed:
    match what.split(), node:
        case ["compare", index], ast.Compare():
            node.ops[int(index)] = _opposite(node.ops[int(index)])
        case ["operator"], ast.BoolOp():
            node.op = _opposite(node.op)
        case ["operator"], ast.BinOp() | ast.AugAssign():
            node.op = _opposite(node.op)
        case ["flip"], ast.Constant():
            node.value = not node.value
        case ["one", sense], ast.Constant(value=int(number)):
            node.value = number + 1 if sense == "more" else -1
        case ["negate"], ast.If() | ast.While() | ast.IfExp():
            node.test = ast.UnaryOp(ast.Not(), node.test)
        case ["return", _], ast.Return():
            node.value = ast.Constant(None)
        case _:
            return ast.copy_location(ast.Pass(), node)
    return node


def _opposite(operator: ast.AST) -> Any:
    """What `OPPOSITE` says; both are of one kind."""
    return OPPOSITE[type(operator)]()


def _put(parent: ast.AST, old: ast.AST, new: ast.AST) -> None:
    for value in vars(parent).values():
        if isinstance(value, list) and any(each is old for each in value):
            value[:] = [new if each is old else each for each in value]


def _is_none(node: ast.AST | None) -> bool:
    return isinstance(node, ast.Constant) and node.value is None


def _is_docstring(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def _text(node: ast.AST) -> str:
    return ast.unparse(ast.fix_missing_locations(node)).splitlines()[0][:90]
