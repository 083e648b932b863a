"""The JSON file of a run: every figure as soon as it is there, so that a run can go on later."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

from voltana.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path


class Results:
    """Figures by step and by point of a step.

    Args:
        path: The file; read if it is there.
        about: What is measured with which settings. A file of something else is refused.

    Raises:
        ConfigError: If the file is of another run, or cannot be read.
    """

    def __init__(self, path: Path, about: Mapping[str, Any]) -> None:
        self.path = path
        self.figures: dict[str, Any] = {"about": dict(about)}
        if not path.exists():
            return
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
            earlier = dict(found["about"])
        except (ValueError, TypeError, KeyError) as error:
            raise ConfigError(
                f"{path} holds no results of this benchmark ({error!r}): must be one of its files. "
                "Move it away, or choose another --out."
            ) from None
        differing = sorted(k for k in earlier.keys() | about if earlier.get(k) != about.get(k))
        if differing:
            raise ConfigError(
                f"{path} is of a run with another {', '.join(differing)}: must be alike to go on "
                "with. Choose another --out, or move the file away."
            )
        self.figures = found

    def step(self, name: str, measure: Callable[[], Any]) -> Any:
        """Figures of a step, measured unless they are there."""
        if name not in self.figures:
            self.put(name, measure())
        return self.figures[name]

    def put(self, name: str, figures: Any) -> None:
        """Keep the figures of a step."""
        self.figures[name] = figures
        self._write()

    def points(self, step: str) -> dict[str, Any]:
        """Points of a step that are there, by name."""
        found: dict[str, Any] = self.figures.get(step, {})
        return found

    def put_point(self, step: str, name: str, figures: Any) -> None:
        """Keep one point of a step."""
        self.figures.setdefault(step, {})[name] = figures
        self._write()

    def _write(self) -> None:
        """Replace the file whole, so that one that was interrupted can be read."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        fresh = self.path.with_suffix(".new")
        self.figures = _without_nan(self.figures)
        text = json.dumps(self.figures, indent=1, allow_nan=False)
        fresh.write_text(text + "\n", encoding="utf-8")
        fresh.replace(self.path)


def _without_nan(value: Any) -> Any:
    """The same with null for what is no number, which JSON does not have."""
    if isinstance(value, dict):
        return {key: _without_nan(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_nan(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
