"""What of the boards of a sweep is measured, inferred from something else, or unknown."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from voltana.errors import ConfigError
from voltana.plant.hardware import Knowledge as BoardKnowledge
from voltana.plant.hardware import load_hardware

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from voltana.evaluation.sweep.work import Row

    Knowledge = Mapping[str, Mapping[str, Iterable[str]]]
    """By board: ``measured``, ``inferred`` and ``unknown``."""

_HARDWARE = "cluster.hardware"


def board_knowledge(rows: Iterable[Row]) -> Knowledge:
    """What the profiles of the boards in these rows say of themselves.

    A profile of the user's own that is not there any more is left out.
    """
    made: dict[str, Mapping[str, Iterable[str]]] = {}
    for given in dict.fromkeys(row[_HARDWARE] for row in rows if _HARDWARE in row):
        with contextlib.suppress(ConfigError):
            board = load_hardware(given)
            made[board.name] = board.knowledge.model_dump(mode="json")
    return made


def caveats(knowledge: Knowledge) -> list[str]:
    """A line a board: which of its properties are no measurements of it."""
    return [BoardKnowledge.model_validate(said).caveat(board) for board, said in knowledge.items()]
