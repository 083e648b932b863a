"""Arrivals of many clients whose rate and burstiness were recorded over time, window by window.

Each client is a renewal process of its own within each window, with gamma or Weibull gaps; the
load is all of them together: Xiang et al., ServeGen (arXiv 2505.09999). At another rate every
client keeps its share and the shape of its gaps.
"""

from __future__ import annotations

import csv
import itertools
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from voltana.errors import ConfigError, TraceError, invalid
from voltana.plant.workload.arrivals.process import check_rate, renewal_arrivals
from voltana.plant.workload.replay.source import open_text
from voltana.users_file import read_number

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from voltana.values import FloatArray

CLIENT, TIME, RATE, CV, PATTERN, SHAPE = (
    "chunk", "timestamp_s", "rate_rps", "iat_cv", "arrival_pattern", "param1"
)  # fmt: skip
"""Columns of ServeGen's client pool; all but time and rate may be missing."""

GAMMA, WEIBULL = "gamma", "weibull"
LEAST_SHAPE, MOST_SHAPE = 1e-3, 1e3
"""Of the gaps: variations of about 30 and 0.03 for gamma; wilder ones are taken as these."""

REMEDY = "The columns are those of ServeGen's client_rates.csv; see docs/workloads.md."


class Window(NamedTuple):
    """One client in one window of time.

    Attributes:
        from_s: When it begins.
        until_s: When it ends.
        rate_rps: Mean rate in it.
        pattern: `GAMMA` or `WEIBULL`.
        shape: Of the gaps' distribution; 1 is Poisson.
    """

    from_s: float
    until_s: float
    rate_rps: float
    pattern: str
    shape: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientRates:
    """What was recorded of all clients, and where in it a run begins.

    Attributes:
        windows: Of all clients, in any order; without those in which nothing came.
        start_s: Where in the record the run begins.
    """

    windows: tuple[Window, ...]
    start_s: float = 0.0

    def sample(self, rate_rps: float, duration_s: float, rng: np.random.Generator) -> FloatArray:
        """Draw the arrivals of one run; see `ArrivalProcess.sample`.

        The rates are scaled so that their mean over the run is `rate_rps`.

        Raises:
            ConfigError: If rate or duration is out of range, or nothing was recorded in the run.
        """
        check_rate(rate_rps, duration_s)
        end_s = self.start_s + duration_s
        last_s = max((window.until_s for window in self.windows), default=0.0)
        if end_s > last_s:
            raise invalid(
                "duration_s",
                duration_s,
                f"at most {max(last_s - self.start_s, 0.0):g} s, where the recorded rates end",
                "Shorten the run, or begin it earlier (--rates-start).",
            )
        shown = [w for w in self.windows if w.until_s > self.start_s and w.from_s < end_s]
        expected = sum(w.rate_rps * (min(w.until_s, end_s) - max(w.from_s, self.start_s))
                       for w in shown)  # fmt: skip
        if expected == 0.0:
            raise invalid(
                "rates_start_s",
                self.start_s,
                "such that something was recorded in the run",
                "Begin elsewhere, or run longer.",
            )
        scale = rate_rps * duration_s / expected
        parts = [_drawn(window, scale, rng) for window in shown]
        arrival_s = np.sort(np.concatenate(parts)) - self.start_s
        first, end = np.searchsorted(arrival_s, (0.0, duration_s))
        return arrival_s[first:end]


def _drawn(window: Window, scale: float, rng: np.random.Generator) -> FloatArray:
    """Arrivals of one client in one window, which begins at a random instant of its process."""
    length_s, gap_s = window.until_s - window.from_s, 1.0 / (window.rate_rps * scale)
    shape = window.shape
    if window.pattern == WEIBULL:
        scale_s = gap_s / math.gamma(1.0 + 1.0 / shape)
        biased_s = scale_s * float(rng.standard_gamma(1.0 + 1.0 / shape)) ** (1.0 / shape)

        def draw_gaps(count: int) -> FloatArray:
            return rng.weibull(shape, count) * scale_s
    else:
        scale_s = gap_s / shape
        biased_s = scale_s * float(rng.standard_gamma(shape + 1.0))

        def draw_gaps(count: int) -> FloatArray:
            return rng.standard_gamma(shape, count) * scale_s

    # The gap that holds the instant is the likelier the longer it is: Cox, Renewal Theory, 5.4.
    return window.from_s + renewal_arrivals(rng.random() * biased_s, draw_gaps, gap_s, length_s)


def read_client_rates(path: Path, start_s: float = 0.0) -> ClientRates:
    """Read rates over time from CSV, gzipped or not.

    A window lasts until the client's next row; the last one as long as the one before it.

    Args:
        path: CSV with at least the columns ``timestamp_s`` and ``rate_rps``.
        start_s: Where in it a run begins.

    Raises:
        ConfigError: If it cannot be read, or holds something else.
    """
    clients: dict[str, list[tuple[float, float, str, float]]] = {}
    try:
        with open_text(path) as text:
            rows = csv.DictReader(text)
            _check_columns(path, rows.fieldnames or ())
            for number, row in enumerate(rows, start=2):
                clients.setdefault(row.get(CLIENT) or "", []).append(_read(path, number, row))
    except (TraceError, csv.Error) as error:
        raise ConfigError(f"rates: {error} {REMEDY}") from None
    windows = tuple(
        window for rows in clients.values() for window in _windows(path, rows) if window.rate_rps
    )
    if not windows:
        raise ConfigError(f"rates {str(path)!r}: no rate is above 0. {REMEDY}")
    return ClientRates(windows=windows, start_s=start_s)


def _check_columns(path: Path, names: Iterable[str]) -> None:
    missing = [name for name in (TIME, RATE) if name not in names]
    if missing:
        raise ConfigError(
            f"rates {str(path)!r}: it lacks the column {missing[0]!r}; it has "
            f"{', '.join(names) or 'none'}. {REMEDY}"
        )


def _read(
    path: Path, number: int, row: Mapping[str, str | None]
) -> tuple[float, float, str, float]:
    at_s, rate_rps = (_figure(path, number, row, name, 0.0) for name in (TIME, RATE))
    pattern = (row.get(PATTERN) or "").strip().lower()
    if pattern not in {"", GAMMA, WEIBULL}:
        raise ConfigError(
            f"rates {str(path)!r}, line {number}: {PATTERN} = {pattern!r} is not allowed: must be "
            f"Gamma, Weibull or empty. {REMEDY}"
        )
    cv = _figure(path, number, row, CV, 1.0)
    shape = _figure(path, number, row, SHAPE, 0.0) if pattern else 0.0
    if not shape:
        pattern, shape = GAMMA, cv**-2 if cv else 1.0
    return at_s, rate_rps, pattern, min(max(shape, LEAST_SHAPE), MOST_SHAPE)


def _figure(
    path: Path, number: int, row: Mapping[str, str | None], name: str, missing: float
) -> float:
    text = row.get(name)
    if not text and name not in {TIME, RATE}:
        return missing
    try:
        value = read_number(text or "")
    except ValueError:
        value = math.nan
    if not 0.0 <= value < math.inf:
        raise ConfigError(
            f"rates {str(path)!r}, line {number}: {name} = {text!r} is not allowed: must be a "
            f"number of at least 0. {REMEDY}"
        )
    return value


def _windows(path: Path, rows: list[tuple[float, float, str, float]]) -> Iterable[Window]:
    times_s = [row[0] for row in rows]
    lengths_s = [after - before for before, after in itertools.pairwise(times_s)]
    if not lengths_s or min(lengths_s) <= 0.0:
        raise ConfigError(
            f"rates {str(path)!r}: the times of a client must ascend, over two rows or more. "
            + REMEDY
        )
    for (from_s, rate_rps, pattern, shape), length_s in zip(
        rows, [*lengths_s, lengths_s[-1]], strict=True
    ):
        yield Window(from_s, from_s + length_s, rate_rps, pattern, shape)
