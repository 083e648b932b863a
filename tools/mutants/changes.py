"""Small changes of a module, each of which some test should notice."""

from __future__ import annotations

import ast
import copy
import itertools
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

SWAPPED: dict[type[ast.AST], type[ast.AST]] = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult, ast.Mod: ast.Mult, ast.Pow: ast.Mult, ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
}  # fmt: skip
TURNED: dict[type[ast.AST], tuple[type[ast.AST], ...]] = {
    ast.Lt: (ast.LtE, ast.GtE), ast.LtE: (ast.Lt, ast.Gt), ast.Gt: (ast.GtE, ast.LtE),
    ast.GtE: (ast.Gt, ast.Lt), ast.Eq: (ast.NotEq,), ast.NotEq: (ast.Eq,),
    ast.Is: (ast.IsNot,), ast.IsNot: (ast.Is,), ast.In: (ast.NotIn,), ast.NotIn: (ast.In,),
}  # fmt: skip
RENAMED = {"min": "max", "max": "min", "any": "all", "all": "any"}

UNTOUCHED = {"__repr__", "__post_init__"}
"""Functions whose changes are another test's matter: what is shown, and what is refused."""


class Change(NamedTuple):
    """One mutant of a module.

    Attributes:
        line: Where it is.
        kind: What was changed.
        before: The source of what was changed.
        after: The source in its place.
        module: The whole module, unchanged.
        place: Which of the places that may be changed it is.
        put: What stands there instead.
    """

    line: int
    kind: str
    before: str
    after: str
    module: ast.Module
    place: int
    put: ast.expr | ast.stmt

    def tree(self) -> ast.Module:
        """The whole module, changed; made when asked for, as few of many mutants are run."""
        changed = copy.deepcopy(self.module)
        target = next(itertools.islice(_places(changed), self.place, None))
        _replace(changed, target, self.put)
        return ast.fix_missing_locations(changed)


def changes(source: str) -> Iterator[Change]:
    """Every mutant of a module, in the order of its source."""
    module = ast.parse(source)
    for place, node in enumerate(_places(module)):
        variants = list(_variants(node))
        before = ast.unparse(node) if variants else ""
        for kind, put in variants:
            after = ast.unparse(put) if not isinstance(put, ast.Pass) else "(dropped)"
            yield Change(node.lineno, kind, before, after, module, place, put)


def _places(tree: ast.Module) -> Iterator[ast.expr | ast.stmt]:
    """What may be changed: expressions and statements of functions, and constants of modules."""
    for node in tree.body:
        if isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None:
            yield from _expressions(node.value)
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield from _within(node)


def _within(node: ast.FunctionDef | ast.ClassDef) -> Iterator[ast.expr | ast.stmt]:
    if node.name in UNTOUCHED:
        return
    for statement in node.body:
        yield from _statement(statement)


def _statement(node: ast.stmt) -> Iterator[ast.expr | ast.stmt]:
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        yield from _within(node)
        return
    if isinstance(node, ast.Raise | ast.Import | ast.ImportFrom) or _is_text(node):
        return
    if _is_update(node):
        yield node
    for field, value in ast.iter_fields(node):
        if field not in {"annotation", "targets", "target"}:
            for part in value if isinstance(value, list) else [value]:
                yield from _part(part)


def _part(part: object) -> Iterator[ast.expr | ast.stmt]:
    if isinstance(part, ast.stmt):
        yield from _statement(part)
    elif isinstance(part, ast.expr):
        yield from _expressions(part)
    elif isinstance(part, ast.excepthandler):
        for inner in part.body:
            yield from _statement(inner)


def _expressions(node: ast.expr) -> Iterator[ast.expr]:
    for part in ast.walk(node):
        if isinstance(part, ast.expr) and any(True for _ in _variants(part)):
            yield part


def _is_text(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def _is_update(node: ast.stmt) -> bool:
    """Whether a statement only changes something that outlives its function."""
    if isinstance(node, ast.Expr):
        return isinstance(node.value, ast.Call)
    if isinstance(node, ast.AugAssign):
        return True
    return isinstance(node, ast.Assign) and any(
        isinstance(target, ast.Attribute | ast.Subscript) for target in node.targets
    )


def _variants(node: ast.expr | ast.stmt) -> Iterator[tuple[str, ast.expr | ast.stmt]]:
    """What may stand in the place of a node."""
    if isinstance(node, ast.stmt):
        yield "update dropped", ast.Pass()
    elif isinstance(node, ast.Compare):
        for at, operator in enumerate(node.ops):
            for turned in TURNED[type(operator)]:
                ops = [*node.ops[:at], turned(), *node.ops[at + 1 :]]
                yield "comparison turned", _with(node, ops=ops)
    elif isinstance(node, ast.Constant):
        yield from _constants(node.value)
    else:
        yield from _operators(node)


def _constants(value: object) -> Iterator[tuple[str, ast.expr]]:
    if isinstance(value, bool):
        yield "constant moved", ast.Constant(not value)
    elif isinstance(value, int):
        yield "constant moved", ast.Constant(value + 1)
    elif isinstance(value, float):
        yield "constant moved", ast.Constant(value * 1.5 + 0.01)


def _operators(node: ast.expr) -> Iterator[tuple[str, ast.expr]]:
    if isinstance(node, ast.BinOp) and type(node.op) in SWAPPED:
        yield "operator swapped", _with(node, op=SWAPPED[type(node.op)]())
    elif isinstance(node, ast.BoolOp):
        swapped = ast.Or() if isinstance(node.op, ast.And) else ast.And()
        yield "operator swapped", _with(node, op=swapped)
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not | ast.USub):
        yield "operator dropped", node.operand
    elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in RENAMED:
        yield "function swapped", _with(node, func=ast.Name(RENAMED[node.func.id], ast.Load()))
    elif isinstance(node, ast.IfExp):
        yield "branches swapped", _with(node, body=node.orelse, orelse=node.body)


def _with(node: ast.expr, **fields: object) -> ast.expr:
    changed = copy.copy(node)
    for name, value in fields.items():
        setattr(changed, name, value)
    return changed


def _replace(tree: ast.Module, target: ast.AST, after: ast.AST) -> None:
    for parent in ast.walk(tree):
        for field, value in ast.iter_fields(parent):
            if value is target:
                setattr(parent, field, after)
                return
            if isinstance(value, list):
                for at, part in enumerate(value):
                    if part is target:
                        value[at] = after
                        return
