"""What a plugin may import in the engine's process: the standard library, itself and the ring."""

from __future__ import annotations

import ast
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import voltana_ring

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import ModuleType


def files_in_the_engine(plugin: ModuleType) -> list[Path]:
    """Files of a plugin that an engine imports: the plugin, the hooks and the ring."""
    assert plugin.__file__ is not None
    own, ring = Path(plugin.__file__).parent, Path(voltana_ring.__file__).parent
    return [
        own / "__init__.py",
        own / "plugin.py",
        *own.glob("hooks/*.py"),
        *ring.rglob("*.py"),
    ]


def imports_what_an_engine_has(path: Path, plugin: ModuleType) -> None:
    """Assert that a file asks for nothing that the engine's environment may lack.

    Parsed as by the oldest Python that an engine with plugins runs on.
    """
    own = {"voltana_ring", plugin.__name__, "tomli"}
    for name in _imported(ast.parse(path.read_text(), feature_version=(3, 10))):
        top = name.partition(".")[0]
        assert top in own or top in sys.stdlib_module_names, f"{path} imports {name}"
        if top == plugin.__name__ != name:
            assert name.startswith(f"{top}.hooks"), f"{path} imports {name}"


def _imported(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.module is not None
            yield node.module
