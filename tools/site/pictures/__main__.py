"""Draws all pictures: ``python -m tools.site.pictures`` writes them into docs/images."""

from __future__ import annotations

import importlib
import pkgutil
from pathlib import Path

from tools.site import pictures

IMAGES = Path(__file__).parents[3] / "docs" / "images"


def drawn() -> dict[str, str]:
    """The SVG of every picture, by the name of its file."""
    names = sorted(module.name for module in pkgutil.iter_modules(pictures.__path__))
    made = {}
    for name in names:
        module = importlib.import_module(f"{pictures.__name__}.{name}")
        if hasattr(module, "draw"):
            made[f"{name}.svg"] = module.draw().svg()
    return made


def main() -> None:
    """Write them; one that has not changed stays as it is."""
    for name, svg in drawn().items():
        (IMAGES / name).write_text(svg, encoding="utf-8")


if __name__ == "__main__":
    main()
