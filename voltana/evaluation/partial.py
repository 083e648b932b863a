"""What a long comparison has found so far, readable while it runs and after it was killed.

A line a policy and stretch of simulated time is written as soon as the stretch and its requests are
over, and reaches the disk at once.
"""

from __future__ import annotations

import math
import os
from typing import TYPE_CHECKING

import numpy as np

from voltana.plant.record import mean_itl_s
from voltana.plant.simulation import METER_S
from voltana.slo import attainment
from voltana.whole_file import hold_alone, said_where

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from voltana.evaluation.scenario import Scenario
    from voltana.plant.job import Job
    from voltana.plant.simulation import Simulation

PARTIAL = "partial.csv"
COLUMNS = ("policy", "from_s", "until_s", "requests", "ttft_kept", "itl_kept", "energy_j")
STRETCHES = 96
"""Stretches of a run: quarters of an hour of a day."""


class PartialResults:
    """Keeps `PARTIAL` up to date; give `look` to `voltana.evaluation.compare.compare`.

    A stretch is told once all its requests have ended, so that its line never changes.
    ``ttft_kept`` and ``itl_kept`` are shares of the requests that arrived in it and kept the
    threshold.

    Args:
        path: The file; what it held is given up.
        scenario: What is run.

    Raises:
        ConfigError: If it cannot be written, or another run writes it.
    """

    def __init__(self, path: Path, scenario: Scenario) -> None:
        self._slo, self._limits = scenario.cluster.slo, scenario.cluster.limits
        arrival_s = scenario.trace.arrival_s
        length_s = float(arrival_s[-1]) / STRETCHES if len(arrival_s) else 1.0
        self._length_s = math.ceil(max(length_s, METER_S) / METER_S) * METER_S
        self._policy = ""
        self._from_s = 0.0
        self._first = 0
        self._path = path
        with said_where(path):
            self._file = path.open("a", encoding="utf-8")
            hold_alone(self._file, path.parent, "run")
            self._file.truncate(0)
        self._write(",".join(COLUMNS))

    def look(self, policy: str, simulation: Simulation) -> None:
        """Tell the stretches that have ended since the last look."""
        if policy != self._policy:
            self._policy, self._from_s, self._first = policy, 0.0, 0
        while self._from_s + self._length_s < simulation.now_s - METER_S and self._tell(simulation):
            pass

    def close(self) -> None:
        """Close the file, which stays."""
        self._file.close()

    def _tell(self, simulation: Simulation) -> bool:
        """Write the next stretch; False if a request of it has not ended."""
        until_s, jobs = self._from_s + self._length_s, simulation.jobs
        last = self._first
        while last < len(jobs) and jobs[last].arrival_s < until_s:
            if not self._has_ended(jobs[last]):
                return False
            last += 1
        self._write(
            f"{self._policy},{self._from_s:g},{until_s:g},{last - self._first},"
            f"{self._kept(jobs[self._first : last])},{self._energy_j(simulation, until_s):.6g}"
        )
        self._from_s, self._first = until_s, last
        return True

    def _has_ended(self, job: Job) -> bool:
        """Whether a request got its last token or was refused."""
        return math.isfinite(job.completed_s) or not self._limits.can_hold(job.prompt_tokens)

    def _kept(self, jobs: Sequence[Job]) -> str:
        """Shares that kept the thresholds, as cells; empty where there are none."""
        first_s, completed_s = (
            np.array([getattr(job, name) for job in jobs])
            for name in ("first_token_s", "completed_s")
        )
        kept = attainment(
            self._slo,
            ttft_s=first_s - np.array([job.arrival_s for job in jobs]),
            mean_itl_s=mean_itl_s(
                first_s, completed_s, np.array([job.output_tokens for job in jobs])
            ),
            itl_s=np.zeros(0),
        )
        return ",".join("" if math.isnan(x) else f"{x:.4f}" for x in (kept.ttft, kept.itl))

    def _energy_j(self, simulation: Simulation, until_s: float) -> float:
        metered_j = simulation.metered_j
        first, last = (round(at_s / METER_S) for at_s in (self._from_s, until_s))
        return metered_j[last] - metered_j[first]

    def _write(self, line: str) -> None:
        with said_where(self._path):
            self._file.write(line + "\n")
            self._file.flush()
            os.fsync(self._file.fileno())
