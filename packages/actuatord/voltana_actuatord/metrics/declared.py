"""How a metric is declared: once, by Prometheus' conventions, for exposition and documentation.

The conventions (https://prometheus.io/docs/practices/naming/) are checked where a metric is
declared: one unit a metric and a base unit, which the name ends with, before ``_total`` of a
counter. The daemon's package declares its own, and the serving processes theirs, by this one class.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

UNITS = ("bytes", "hertz", "joules", "ratio", "seconds", "tokens", "watts", "requests")
"""What a metric may be in: base units, shares, and what is counted often enough to say so."""

SCALED = re.compile(
    r"_(?:ms|us|milli\w+|micro\w+|mhz|ghz|mega\w+|giga\w+|kilo\w+|percent|j|w)(?:_|$)"
)
NAME = re.compile(r"voltana_[a-z0-9]+(?:_[a-z0-9]+)*")
LABEL = re.compile(r"[a-z][a-z_]*")
RESERVED = frozenset({"instance", "job", "le", "quantile"})
"""Labels that Prometheus sets itself, or gives a meaning."""

KINDS = ("counter", "gauge", "histogram")


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """One metric.

    Attributes:
        name: As it is scraped, without the suffixes of a histogram's series.
        kind: ``counter``, ``gauge`` or ``histogram``.
        help: One sentence; what the figure is, and where it comes from if that matters.
        labels: Names of its labels, in the order in which values are given.

    Raises:
        ValueError: If it is declared against the conventions.
    """

    name: str
    kind: str
    help: str
    labels: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for problem in _problems(self):
            raise ValueError(f"metric {self.name}: {problem}")

    @property
    def unit(self) -> str:
        """The unit that its name ends with; empty for a number of things."""
        last = self.name.removesuffix("_total").rpartition("_")[2]
        return last if last in UNITS else ""


def _problems(metric: Metric) -> list[str]:
    """What is against the conventions."""
    return [
        text
        for broken, text in (
            (NAME.fullmatch(metric.name) is None, "must be voltana_ and lower case words"),
            (metric.kind not in KINDS, f"kind = {metric.kind!r}: must be one of {KINDS}"),
            (
                (metric.kind == "counter") != metric.name.endswith("_total"),
                "a counter ends with _total, and nothing else does",
            ),
            (SCALED.search(metric.name) is not None, "must be in a base unit"),
            (metric.kind == "histogram" and not metric.unit, "a histogram's name ends with a unit"),
            (
                not (metric.help and metric.help.endswith(".") and "\n" not in metric.help),
                "help must be a sentence",
            ),
            (
                not all(map(LABEL.fullmatch, metric.labels))
                or len(set(metric.labels)) < len(metric.labels)
                or bool(RESERVED & set(metric.labels)),
                "labels must be words of their own, each once",
            ),
        )
        if broken
    ]
