"""One GPU as the worker sees it, and a change of its domain's clock that is under way."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from voltana_actuatord.daemon.page import ClockState
from voltana_actuatord.wishes import Wish

if TYPE_CHECKING:
    from voltana_actuatord.daemon.linkends import WorkerEnd

READY, OPENING, OPEN, RESTORING = "ready", "opening", "open", "restoring"
GPU_WORDS = ("default", "watched", "doubtful", "restoring", "lent")
"""How a GPU is, in the words of status (`word_of`)."""


@dataclass(slots=True)
class LentGpu:
    """One GPU.

    Attributes:
        uuid: Its name.
        word: How the parent has it.
        link: The link to its process; None while there is none.
        clocks_mhz: Clocks that may be set; empty before it was examined.
        state: What is known of its clock.
        wish: What was asked for last.
        answered: Ticket of the wish that was answered last.
        since: First ticket of the present lease: failures of earlier ones are not its.
        unsent: What goes to its process once there is one.
        notes: What the operator should know.
        foreign: Whether somebody else had set its clock when it was looked at last.
        clock_mhz: Clock that was read back last after a change; nan where there was none.
        refused: Why it could not be opened, until when that is said again.
        rests_until_s: Until when it is left alone.
    """

    uuid: str
    word: str = READY
    link: WorkerEnd | None = None
    clocks_mhz: tuple[float, ...] = ()
    state: ClockState = ClockState.DEFAULT
    wish: Wish = field(default_factory=lambda: Wish(None))
    answered: int = -1
    since: int = 0
    unsent: dict[bytes, bytes] = field(default_factory=dict)
    notes: str = ""
    foreign: bool = False
    clock_mhz: float = math.nan
    refused: tuple[str, float] = ("", 0.0)
    rests_until_s: float = 0.0

    @property
    def at_default(self) -> bool:
        """Whether it is at its default clocks by all that is known, and no wish is under way."""
        if self.wish.clock_mhz is not None or self.word == RESTORING:
            return False
        settled = self.answered >= self.wish.ticket
        return self.word != OPEN or (settled and self.state.ready)

    def forget_wish(self) -> None:
        """Nobody is there who could fulfil it."""
        self.unsent.clear()
        self.wish = Wish(None, self.wish.ticket)
        self.answered = self.wish.ticket


@dataclass(slots=True)
class Settling:
    """A change of clock of a domain that is under way.

    Attributes:
        ticket: Of the wish.
        sequence: Its step.
        target_mhz: The clock.
        waiting: Devices that have not reported.
        clock_mhz: Slowest clock read back so far.
        notes: Reasons given so far.
    """

    ticket: int
    sequence: int
    target_mhz: float
    waiting: set[str]
    clock_mhz: float = math.inf
    notes: str = ""


def word_of(gpu: LentGpu) -> str:
    """How a GPU is, in the words of status."""
    if gpu.word == RESTORING:
        return RESTORING
    if gpu.word == OPEN and not gpu.at_default:
        return "lent" if gpu.wish.clock_mhz is not None else RESTORING
    # What its process said last may be older than what others have restored since.
    state = gpu.state if gpu.state.ready else ClockState.WATCHED
    return state.name.lower()
