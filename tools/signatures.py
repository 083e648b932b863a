"""Reads what classes have out of sources, and checks published versions of an engine."""

from __future__ import annotations

import ast
import sys
from typing import TYPE_CHECKING

from tools.wheel_sources import published

if TYPE_CHECKING:
    from collections.abc import Callable

    Read = Callable[[str], str]


def parsed(read: Read, paths: tuple[str, ...]) -> dict[str, ast.Module]:
    """Sources by their paths.

    Raises:
        KeyError: If one is not there.
        OSError: Likewise.
    """
    return {path: ast.parse(read(path)) for path in paths}


def class_of(tree: ast.Module, name: str) -> ast.ClassDef | None:
    """A class of a module."""
    found = [n for n in tree.body if isinstance(n, ast.ClassDef) and n.name == name]
    return found[0] if found else None


def method_of(owner: ast.ClassDef | None, name: str) -> ast.FunctionDef | None:
    """A method of a class."""
    body = owner.body if owner is not None else []
    found = [n for n in body if isinstance(n, ast.FunctionDef) and n.name == name]
    return found[0] if found else None


def assigned(owner: ast.ClassDef | None) -> set[str]:
    """Names that a class gives values, to itself or to its instances when they are made."""
    made = method_of(owner, "__init__")
    names = {
        node.attr
        for node in ast.walk(made or ast.Module([], []))
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store)
    }
    for node in owner.body if owner is not None else []:
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        names |= {target.id for target in targets if isinstance(target, ast.Name)}
    return names


def method_complaints(owner: ast.ClassDef | None, methods: dict[str, list[str]]) -> list[str]:
    """Which methods of a scheduler are gone, or take other arguments."""
    found = []
    for name, arguments in methods.items():
        method = method_of(owner, name)
        if method is None:
            found.append(f"Scheduler.{name} is gone")
        elif (taken := [a.arg for a in method.args.args]) != arguments:
            found.append(f"Scheduler.{name} takes {taken}")
    return found


def lacking(*wanted: tuple[ast.Module, str, set[str]]) -> list[str]:
    """Which classes of modules do not give values to all the names that they should."""
    return [
        f"{name} lacks {sorted(missing)}"
        for tree, name, names in wanted
        if (missing := names - assigned(class_of(tree, name)))
    ]


def check_versions(
    distribution: str, versions: list[str], complaints: Callable[[Read], list[str]]
) -> int:
    """Check published versions; how many are not as expected.

    Args:
        distribution: Whose wheels are read.
        versions: The versions.
        complaints: What a version lacks, given a reader of its sources.
    """
    wrong = 0
    for version in versions:
        found = complaints(published(f"{distribution}=={version}"))
        wrong += bool(found)
        sys.stdout.write(f"{version}: {'; '.join(found) or 'as expected'}\n")
        sys.stdout.flush()
    return wrong
