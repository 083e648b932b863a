"""What the conformance runs share: how long they are, and which classes must be in them."""

from __future__ import annotations

import importlib
import inspect
import pkgutil

import pytest

EXAMPLES = pytest.mark.parametrize(
    "examples", [12, pytest.param(150, marks=pytest.mark.slow, id="many")]
)
"""Hypothesis examples of a property test: a few by default, many where time does not matter."""


def classes_with(package_name, *methods):
    """Concrete public classes under a package that define all `methods`, by name."""
    package = importlib.import_module(package_name)
    found = {}
    for info in pkgutil.walk_packages(package.__path__, f"{package_name}."):
        module = importlib.import_module(info.name)
        for name, member in inspect.getmembers(module, inspect.isclass):
            own = member.__module__ == info.name and not name.startswith("_")
            protocol = getattr(member, "_is_protocol", False)
            if own and not protocol and all(hasattr(member, method) for method in methods):
                found[name] = member
    return found
