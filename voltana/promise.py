"""What is promised, and what is issued with a forecast and a decision so that it can be scored.

docs/guarantee.md defines the terms and proves the statement. Everything here is frozen: a label is
scored against what was issued with it, never against what would be predicted now.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from voltana.errors import invalid
from voltana_actuatord.quick import quickly_made


@dataclass(frozen=True, slots=True, kw_only=True)
class Statement:
    """The numbers of one guarantee; they hold for every group.

    Attributes:
        alpha: Share of the scored weight that may be missed.
        gamma: First (and for fixed steps only) step of the quantile tracker.
        decay: Exponent of the step's decay; 0 keeps it fixed.
        decay_labels: Labels after which a decaying step begins to fall.
        floor: Least step of a decaying one.
        q_lo: Least margin, in scales.
        q_cert: Greatest margin that certifies.
        delay: K, the most other updates of a group between a label's issue and its application.
        max_weight: W, the greatest weight of one label.

    Raises:
        ConfigError: If a number is outside its range.
    """

    alpha: float = 0.01
    gamma: float = 0.02
    decay: float = 0.0
    decay_labels: int = 100
    floor: float = 0.01
    q_lo: float = 0.0
    q_cert: float = 1.0
    delay: int = 8
    max_weight: float = 1.0

    def __post_init__(self) -> None:
        """Refuse numbers for which the statement is not proven."""
        ranges = (
            ("alpha", 0 < self.alpha < 1, "in (0, 1)", "0.01 misses one label in a hundred."),
            ("gamma", 0 < self.gamma < math.inf, "above 0", "0.02 is the default."),
            ("decay", 0 <= self.decay < math.inf, "0 or more", "0 keeps the step fixed."),
            ("decay_labels", self.decay_labels >= 1, "1 or more", "100 is the default."),
            ("floor", 0 < self.floor <= self.gamma or not self.decay, "in (0, gamma]", "Lower it."),
            ("q_lo", -1 < self.q_lo <= self.q_cert, "in (-1, q_cert]", "0 is the default."),
            ("q_cert", self.q_lo <= self.q_cert < math.inf, "q_lo or more", "1 is the default."),
            (
                "delay",
                0 <= self.delay < math.inf,
                "0 or more",
                "As many as are in flight, if they come in order.",
            ),
            ("max_weight", 0 < self.max_weight < math.inf, "above 0", "1 weighs all alike."),
        )
        for field, holds, allowed, remedy in ranges:
            if not holds:
                raise invalid(field, getattr(self, field), allowed, remedy)

    @property
    def q_hi(self) -> float:
        """Greatest margin: the head-room above `q_cert` that the proof needs."""
        raises = (self.delay + 1) * self.gamma * self.max_weight * (1.0 - self.alpha)
        return self.q_cert + raises

    @property
    def cold_labels(self) -> int:
        """Labels that set the first margin: the largest of them has miss probability alpha."""
        return max(1, math.ceil(1.0 / self.alpha) - 1)

    def step(self, updates: int) -> float:
        """Step of the update that comes after `updates` others; never increases."""
        if not self.decay:
            return self.gamma
        fallen = (1.0 + updates / self.decay_labels) ** -self.decay
        return max(self.floor, self.gamma * float(fallen))

    def constant(self, first: float, updates: int, highest: float = math.inf) -> float:
        """C of docs/guarantee.md: weight that may be missed beyond alpha, from the start.

        Args:
            first: Margin that the group started from.
            updates: Updates that it has had.
            highest: Highest margin that it has had; without it, what it may have.
        """
        highest = min(highest, self.q_hi)
        newest = self.step(max(updates - 1, 0))
        spread = (highest - self.q_lo) * (1.0 / newest - 1.0 / self.gamma)
        return (highest - first) / self.gamma + spread

    def window_constant(self, updates: int) -> float:
        """C of every window that ends after `updates` updates, wherever it starts."""
        return (self.q_hi - self.q_lo) / self.step(max(updates - 1, 0))


def bound_on(mean_s: float, quantile: float, offset_s: float) -> float:
    """The bound ``m + q * (m + m0)`` on a latency that is expected to be `mean_s`, m."""
    return mean_s + quantile * (mean_s + offset_s)


@quickly_made
@dataclass(frozen=True, slots=True, kw_only=True)
class MarginPart:
    """The margin of one group, as issued.

    Attributes:
        from_mhz: Slowest clock that it holds for; the next part's clock ends it.
        group: Name of the group.
        quantile: q, in scales; inf where nothing is known yet.
        certifiable: Whether a decision may be certified with it (q is at most q_cert).
        updates: Updates that the group had when it was issued.
    """

    from_mhz: float = 0.0
    group: str
    quantile: float
    certifiable: bool
    updates: int = 0


@quickly_made
@dataclass(frozen=True, slots=True, kw_only=True)
class Margin:
    """What a guarantee issued with a forecast: the bound is ``m + q * (m + offset_s)``.

    Attributes:
        parts: Ascending in clock; one unless groups depend on the clock.
        offset_s: What is added to the mean for the scale; it absorbs jitter of short batches.
        weight: Weight of the label.
    """

    parts: tuple[MarginPart, ...]
    offset_s: float
    weight: float = 1.0

    def part_at(self, clock_mhz: float) -> MarginPart:
        """The part that holds at a clock of the forecast."""
        parts = self.parts
        found = parts[0]
        if len(parts) == 1:  # as without groups by clock
            return found
        for part in parts[1:]:
            if part.from_mhz > clock_mhz:
                break
            found = part
        return found

    def bound_s(self, part: MarginPart, mean_s: float) -> float:
        """Bound with one of the parts on a latency that is expected to be `mean_s`."""
        return bound_on(mean_s, part.quantile, self.offset_s)


@quickly_made
@dataclass(frozen=True, slots=True, kw_only=True)
class Promise:
    """What the loop settled for a decision whose forecast carries a margin.

    Attributes:
        issuer: Who numbered it.
        sequence: Its number; a label is taken once.
        in_force_mhz: Slowest clock that may be in force; the bound is that of this clock.
        fastest_mhz: Fastest permitted clock.
    """

    issuer: str
    sequence: int
    in_force_mhz: float
    fastest_mhz: float
