"""What a published finding consists of, and how the rows of its sweep become points."""

from __future__ import annotations

import statistics
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from matplotlib.figure import Figure

    from voltana.evaluation.reproduce.published import PublishedPoint
    from voltana.evaluation.sweep import Plan
    from voltana.evaluation.sweep.work import Row

FIGURES = (
    "energy_j",
    "prefill_energy_j",
    "decode_energy_j",
    "energy_saved_vs_static_max",
    "ttft_attainment",
    "itl_attainment",
    "itl_token_attainment",
)
"""What is averaged over seeds and reported."""

SEEDS = (11,)
"""The parameters of `voltana` were chosen on the seeds 0 to 2."""

DURATION_S = 120.0
"""Arrivals of a whole run."""

A100 = {"hardware": "a100-sxm4-80gb", "prefill": 2, "decode": 2}


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """What a finding looks like here.

    Attributes:
        markdown: A table, with a line on what it shows.
        figure: What the command saves as ``figure.png``.
        data: Plain JSON values, with more digits than the table.
    """

    markdown: str
    figure: Figure
    data: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What a user asks for.

    Attributes:
        quick: Fewer points and shorter runs.
        seeds: Whose figures are averaged.
        search: Whether the best fixed clocks are searched, which takes most of the time.
        clocks: What an earlier search found, run in its place; None searches.
    """

    quick: bool = False
    seeds: Sequence[int] = SEEDS
    search: bool = True
    clocks: Mapping[tuple[Any, ...], str] | None = None

    def base(self, policies: Iterable[str], *, quick_s: float = 20.0) -> dict[str, Any]:
        """What all scenarios of a finding share, as a file that a sweep starts from.

        Args:
            policies: Names of what is compared.
            quick_s: Seconds of arrivals where it has to be quick, and 120 s otherwise.
        """
        duration_s = quick_s if self.quick else DURATION_S
        return {
            "policies": list(policies),
            "cluster": A100,
            "workload": {"duration_s": duration_s},
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """A published finding.

    Attributes:
        claim: What was published, in a sentence.
        plan: What to run.
        tell: The figure and the table of the rows; the points that were published, where they are
            at hand.
    """

    claim: str
    plan: Callable[[Asked], Plan]
    tell: Callable[[Sequence[Row], Sequence[PublishedPoint]], Told]


def averaged(rows: Sequence[Row], by: Sequence[str]) -> list[Row]:
    """The mean of `FIGURES` over the rows that agree in `by`, in the order of the first ones."""
    groups: dict[tuple[Any, ...], list[Row]] = defaultdict(list)
    for row in rows:
        groups[tuple(row[name] for name in by)].append(row)
    return [
        {**dict(zip(by, key, strict=True)), **{name: _mean(same, name) for name in FIGURES}}
        for key, same in groups.items()
    ]


def percent(share: float | None) -> str:
    """A share in per cent, to a tenth."""
    return "-" if share is None else f"{100 * share:.1f}"


def markdown_table(headers: Sequence[str], cells: Sequence[Sequence[str]], left: int = 1) -> str:
    """A table; the first `left` columns hold text, the others figures."""
    rule = ["---" if index < left else "---:" for index in range(len(headers))]
    return "\n".join(f"| {' | '.join(line)} |" for line in (headers, rule, *cells))


def _mean(rows: Sequence[Row], name: str) -> float | None:
    values = [row[name] for row in rows if row[name] is not None]
    return statistics.fmean(values) if values else None
