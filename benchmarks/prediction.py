"""How accurate and how fast are the predictors, and why is there a least squares of our own?

``python -m benchmarks.prediction`` prints three tables: speed; what a long stay at one clock does
to river's BayesianLinearRegression and to EcoPred; errors on the noisy plant beside the published
ones. ``--json FILE`` writes the figures for machines.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from rich.console import Console
from rich.table import Table
from river.linear_model import BayesianLinearRegression

from tests.latency_plants import NOISE, Case, grid, latency_model, mean_errors, outcomes
from voltana.levels import A100_CLOCKS_MHZ
from voltana.predictors.drift import DriftAware
from voltana.predictors.ecopred import EcoPred
from voltana.predictors.least_squares import DirectionalLeastSquares
from voltana.predictors.river_adapter import RiverPredictor
from voltana.predictors.tables import profile_tables
from voltana.values import Phase, Role

if TYPE_CHECKING:
    from collections.abc import Callable

    from voltana.ports import Predictor

LLAMA_8B = Case("a100-sxm4-80gb", "llama-3.1-8b", 1)
CASES = (
    LLAMA_8B,
    Case("a100-sxm4-80gb", "ministral-3b", 1),
    Case("a100-sxm4-80gb", "qwen3-32b", 2),
    Case("h100-sxm", "llama-3.1-70b", 4),
)
PHASES = (Phase.PREFILL, Phase.DECODE)
LABELS = 500
PROFILED_SHARES = (1005 / 1410, 1095 / 1410, 1200 / 1410, 1305 / 1410, 1.0)
"""Clocks that the published system profiles, as shares of the fastest one."""

PUBLISHED_MS = {Phase.PREFILL: "7-14", Phase.DECODE: "2-3"}
"""Mean absolute errors that arXiv 2509.04827 reports for its three models."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=100_000, help="iterations at one clock")
    parser.add_argument("--json", type=Path, help="write the figures here")
    arguments = parser.parse_args()
    tables = {
        "speed": speed_rows(),
        "stay": stay_rows(arguments.steps),
        "accuracy": accuracy_rows(),
    }
    titles = {
        "speed": "Microseconds a call",
        "stay": f"Decode, {LLAMA_8B}: errors over all clocks, {arguments.steps} steps at 1410 MHz",
        "accuracy": f"Mean absolute error on the plant ({NOISE:.1%} noise), ms",
    }
    for name, rows in tables.items():
        _print(titles[name], rows)
    if arguments.json:
        arguments.json.write_text(json.dumps(tables, indent=2) + "\n")


def ecopred(case: Case) -> EcoPred:
    return EcoPred.from_datasheet(case.datasheet())


def bayesian(smoothing: float | None) -> RiverPredictor:
    return RiverPredictor(BayesianLinearRegression(smoothing=smoothing))


def speed_rows() -> list[dict[str, object]]:
    """Median and 99th percentile of each call."""
    predictors: dict[str, Predictor] = {
        "EcoPred": ecopred(LLAMA_8B),
        "DriftAware(EcoPred)": DriftAware(ecopred(LLAMA_8B)),
        "BayesianLinearRegression": bayesian(None),
        "BayesianLinearRegression(smoothing=0.998)": bayesian(0.998),
        "DirectionalLeastSquares": RiverPredictor(
            DirectionalLeastSquares(prior_deviation=100.0, noise=0.5)
        ),
    }
    labels = list(outcomes(LLAMA_8B, Phase.DECODE, 2000, seed=1))
    rows: list[dict[str, object]] = []
    for name, predictor in predictors.items():
        row: dict[str, object] = {"predictor": name}
        learn = _times_us(lambda i, p=predictor: p.learn(labels[i]), len(labels))
        row["learn p50"], row["learn p99"] = learn
        for count in (28, 81):
            clocks = np.array(A100_CLOCKS_MHZ[-count:])
            p50, _ = _times_us(lambda i, p=predictor, c=clocks: p.forecast(labels[i].load, c), 500)
            row[f"forecast {count} p50"] = p50
        rows.append(row)
    return rows


def stay_rows(steps: int) -> list[dict[str, object]]:
    """Errors over all clocks before and after a long stay at one, and after a new one."""
    makers: dict[str, Callable[[], Predictor]] = {
        "EcoPred": lambda: ecopred(LLAMA_8B),
        "BLR": lambda: bayesian(None),
        "BLR(smoothing=0.998)": lambda: bayesian(0.998),
        "BLR(smoothing=0.99)": lambda: bayesian(0.99),
    }
    rows = []
    for name, make in makers.items():
        predictor = make()
        row: dict[str, object] = {"predictor": name}
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                _stay(predictor, steps, row)
        except np.linalg.LinAlgError as error:
            row["failed"] = str(error)
        rows.append(row)
    return rows


def _stay(predictor: Predictor, steps: int, row: dict[str, object]) -> None:
    for outcome in outcomes(LLAMA_8B, Phase.DECODE, LABELS, seed=4):
        predictor.learn(outcome)
    row["MAE before, ms"] = _mae_ms(predictor)
    for outcome in outcomes(LLAMA_8B, Phase.DECODE, steps, seed=5, clock_mhz=1410.0):
        predictor.learn(outcome)
    row["after the stay"] = _mae_ms(predictor)
    for outcome in outcomes(LLAMA_8B, Phase.DECODE, 20, seed=6, clock_mhz=1005.0):
        predictor.learn(outcome)
    row["after 20 more at 1005 MHz"] = _mae_ms(predictor)
    if isinstance(predictor, RiverPredictor):
        regressor = predictor._phases[Phase.DECODE].regressor
        row["least eigenvalue"] = f"{np.linalg.eigvalsh(regressor._ss_arr)[0]:.1e}"
    elif isinstance(predictor, EcoPred):
        covariance = predictor._learner.decode.squares._covariance
        row["least eigenvalue"] = f"{1 / np.linalg.eigvalsh(covariance)[-1]:.1e}"


def _mae_ms(predictor: Predictor) -> float:
    return mean_errors(predictor, LLAMA_8B, Phase.DECODE)[0]


def accuracy_rows() -> list[dict[str, object]]:
    """Errors of each predictor for each case and phase."""
    rows = []
    for case in CASES:
        for phase in PHASES:
            row: dict[str, object] = {
                "case": str(case),
                "phase": phase.value,
                "published": PUBLISHED_MS[phase],
            }
            labels = list(outcomes(case, phase, LABELS, seed=2))
            for name, predictor in (("EcoPred", ecopred(case)), ("BLR", bayesian(None))):
                for outcome in labels:
                    predictor.learn(outcome)
                row[name], row[f"{name} relative"] = mean_errors(predictor, case, phase)
            row["EcoPred, all clocks"] = _all_clocks_ms(case, phase)
            row["tables"] = _table_error_ms(case, phase)
            rows.append(row)
    return rows


def _all_clocks_ms(case: Case, phase: Phase) -> float:
    """Error where both labels and questions come from every clock that the device supports."""
    predictor = ecopred(case)
    for outcome in outcomes(case, phase, LABELS, seed=2, slowest_share=0.0):
        predictor.learn(outcome)
    return mean_errors(predictor, case, phase, slowest_share=0.0)[0]


class _Bench:
    def __init__(self, case: Case) -> None:
        self._model = latency_model(case)
        self._rng = np.random.default_rng(0)

    def measure_s(self, load, clock_mhz: float) -> float:
        return self._model.latency_s(load, clock_mhz) * float(np.exp(self._rng.normal(0, NOISE)))


def _table_error_ms(case: Case, phase: Phase) -> float:
    """Error of the published tables at the clocks that they were profiled at, for all loads."""
    table = case.clocks_mhz(0.0)
    clocks = sorted(
        {min(table, key=lambda c, s=s: abs(c - s * table[-1])) for s in PROFILED_SHARES}
    )
    role = Role.PREFILL if phase is Phase.PREFILL else Role.DECODE
    predictor = profile_tables(_Bench(case), role, clocks, max_batch=256)
    errors = []
    for index, (load, _, _) in enumerate(grid(case, phase, 99, None, 0.7)):
        mhz = clocks[index % len(clocks)]
        mean_s = float(predictor.forecast(load, np.array([mhz])).mean_s[0])
        errors.append(1e3 * abs(mean_s - latency_model(case).latency_s(load, mhz)))
    return float(np.mean(errors))


def _times_us(call: Callable[[int], object], count: int) -> tuple[float, float]:
    times = []
    for i in range(count):
        started = time.perf_counter_ns()
        call(i)
        times.append((time.perf_counter_ns() - started) / 1e3)
    return statistics.median(times), statistics.quantiles(times, n=100)[98]


def _print(title: str, rows: list[dict[str, object]]) -> None:
    columns = list(dict.fromkeys(key for row in rows for key in row))
    table = Table(*columns, title=title)
    for row in rows:
        table.add_row(*(_shown(row.get(column, "")) for column in columns))
    Console(width=160).print(table)


def _shown(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    main()
