"""Running figures of an instance: latencies, attainment, and errors of the predictor."""

from __future__ import annotations

import math
from collections import deque
from typing import TYPE_CHECKING, Any

import numpy as np

from voltana.values import Binding, Phase

if TYPE_CHECKING:
    from voltana.values import Load

LEGS = ("ttft", "itl")
"""Thresholds, as they are named in figures."""

RECENT = 2000
"""Iterations that percentiles and attainment look back on."""


class ErrorTracker:
    """Mean absolute error of the predictor, beside that of the mean of all labels so far.

    Both are progressive: each label is compared with what was predicted before it was known.
    """

    def __init__(self) -> None:
        self._recent: deque[tuple[float, float]] = deque(maxlen=RECENT)
        self._mean_s = 0.0
        self.labels = 0

    def add(self, latency_s: float, predicted_s: float) -> None:
        """Note a label and what was predicted for it; unknown predictions are not scored."""
        if self.labels and math.isfinite(predicted_s):
            errors = abs(latency_s - predicted_s), abs(latency_s - self._mean_s)
            self._recent.append(errors)
        self.labels += 1
        self._mean_s += (latency_s - self._mean_s) / self.labels

    def figures(self) -> dict[str, float | int | None]:
        """Labels, and both errors in milliseconds over the recent ones; None before there are."""
        if not self._recent:
            return {"labels": self.labels, "mae_ms": None, "mean_predictor_mae_ms": None}
        mae_s, baseline_s = np.mean(self._recent, axis=0)
        return {
            "labels": self.labels,
            "mae_ms": float(mae_s) * 1e3,
            "mean_predictor_mae_ms": float(baseline_s) * 1e3,
        }


class Account:
    """Figures of one loop."""

    def __init__(self) -> None:
        self.errors = {phase: ErrorTracker() for phase in Phase if phase is not Phase.IDLE}
        self.iterations = dict.fromkeys(self.errors, 0)
        self.decisions: dict[str, int] = {"certified": 0, "saturated": 0, "void": 0}
        self.bindings: dict[str, int] = {binding.value: 0 for binding in Binding}
        self.binding = ""
        self.events = {leg: [0, 0] for leg in LEGS}
        self._latencies: deque[float] = deque(maxlen=RECENT)
        self._kept: deque[tuple[float, int]] = deque(maxlen=RECENT)

    def finished(self, load: Load, latency_s: float, predicted_s: float, *, kept: bool) -> None:
        """Note an iteration.

        Args:
            load: What it computed.
            latency_s: What it took.
            predicted_s: What was expected.
            kept: Whether its requests kept their threshold.
        """
        phase = load.phase
        if phase is Phase.IDLE:
            return
        self.iterations[phase] += 1
        self.errors[phase].add(latency_s, predicted_s)
        self._latencies.append(latency_s)
        weight = max(load.decode_requests, 1)
        self._kept.append((1.0 if kept else 0.0, weight))
        events = self.events["itl" if phase is Phase.DECODE else "ttft"]
        events[0] += weight
        events[1] += 0 if kept else weight

    def latency_s(self, percentile: float) -> float:
        """A percentile of recent iterations; nan before the first."""
        return float(np.percentile(self._latencies, percentile)) if self._latencies else math.nan

    def attainment(self) -> float:
        """Share of recent tokens and prompts that kept their threshold; nan before the first."""
        if not self._kept:
            return math.nan
        kept, weights = zip(*self._kept, strict=True)
        return float(np.average(kept, weights=weights))

    def figures(self) -> dict[str, Any]:
        """Everything, as JSON values."""
        return {
            "iterations": {phase.value: count for phase, count in self.iterations.items()},
            "decisions": dict(self.decisions),
            "bindings": dict(self.bindings),
            "binding": self.binding or None,
            "prediction": {phase.value: e.figures() for phase, e in self.errors.items()},
        }
