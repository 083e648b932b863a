"""A pytest plugin that imports one module changed; `run` names it in the environment."""

from __future__ import annotations

import importlib.abc
import importlib.util
import itertools
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from tools.mutants.changes import changes

if TYPE_CHECKING:
    from collections.abc import Sequence
    from importlib.machinery import ModuleSpec
    from types import ModuleType

VARIABLE = "VOLTANA_MUTANT"


class Mutated(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds one module, and loads it with one change.

    Args:
        module: Its name.
        path: Its source.
        number: Which of its changes.
    """

    def __init__(self, module: str, path: Path, number: int) -> None:
        self._module, self._path, self._number = module, path, number

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """See `importlib.abc.MetaPathFinder.find_spec`."""
        del path, target
        if fullname != self._module:
            return None
        return importlib.util.spec_from_file_location(fullname, self._path, loader=self)

    def exec_module(self, module: ModuleType) -> None:
        """See `importlib.abc.Loader.exec_module`."""
        every = changes(self._path.read_text(encoding="utf-8"))
        change = next(itertools.islice(every, self._number, None))
        exec(compile(change.tree(), str(self._path), "exec"), module.__dict__)


def install() -> None:
    """Put the mutant that the environment names in front of the real module."""
    said = os.environ.get(VARIABLE)
    if said:
        named = json.loads(said)
        assert named["module"] not in sys.modules, "imported before it could be changed"
        sys.meta_path.insert(0, Mutated(named["module"], Path(named["path"]), int(named["number"])))


install()
