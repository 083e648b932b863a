"""Prometheus' text format 0.0.4, with nothing but the standard library."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from voltana_actuatord.metrics.declared import Metric

    Sample = tuple[Sequence[str], float]

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


def exposed(families: Iterable[tuple[Metric, Iterable[Sample]]]) -> bytes:
    """Metrics with their samples as text; those without samples are left out.

    Args:
        families: Each metric once, with the values of its labels and its figure.
    """
    lines: list[str] = []
    for metric, samples in families:
        told = [_line(metric, values, figure) for values, figure in samples]
        if told:
            lines += [f"# HELP {metric.name} {_escaped(metric.help)}"]
            lines += [f"# TYPE {metric.name} {metric.kind}", *told]
    return "".join(f"{line}\n" for line in lines).encode()


def _line(metric: Metric, values: Sequence[str], figure: float) -> str:
    pairs = zip(metric.labels, values, strict=True)
    labels = ",".join(f'{name}="{_quoted(value)}"' for name, value in pairs)
    return f"{metric.name}{'{' + labels + '}' if labels else ''} {_number(figure)}"


def _number(figure: float) -> str:
    if math.isinf(figure):
        return "+Inf" if figure > 0 else "-Inf"
    return "NaN" if math.isnan(figure) else repr(float(figure))


def _escaped(text: str) -> str:
    return text.replace("\\", r"\\").replace("\n", r"\n")


def _quoted(text: str) -> str:
    return _escaped(text).replace('"', r"\"")
