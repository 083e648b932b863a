"""Measurements that the plant itself makes, for tests of fitting."""

from __future__ import annotations

import csv
import math
from typing import TYPE_CHECKING

import numpy as np

from voltana.plant.fit import coefficients
from voltana.plant.fit.measurements import Measurement
from voltana.plant.iteration import PlantModel
from voltana.plant.weight_formats import weight_format
from voltana.values import Load

if TYPE_CHECKING:
    from pathlib import Path

    from voltana.plant.hardware import HardwareProfile
    from voltana.plant.model import ModelProfile

POINTS = (
    *(("decode", batch, context) for batch in (1, 8, 32, 128) for context in (256, 2048, 8192)),
    *(("prefill", batch, context) for batch, context in ((1, 128), (1, 512), (4, 2048), (1, 8192))),
)


def measured(
    board: HardwareProfile,
    model: ModelProfile,
    *,
    boards: int = 1,
    noise: float = 0.0,
    seed: int = 0,
    every: int = 16,
) -> list[Measurement]:
    """Rows over a grid of batches, contexts and clocks, with lognormal noise."""
    plant, rng = PlantModel(board, model, boards), np.random.default_rng(seed)
    rows: list[Measurement] = []

    def add(point: tuple[str, int, int], mhz: float, seconds: float, watts: float) -> None:
        phase, batch, context = point
        rows.append(
            Measurement(
                line=len(rows) + 2,
                phase=phase,
                batch=batch,
                context=context,
                clock_mhz=mhz,
                latency_s=seconds * float(np.exp(noise * rng.normal())),
                power_w=watts * float(np.exp(noise * rng.normal())),
            )
        )

    for mhz in [mhz for mhz in board.clocks_mhz if mhz >= 0.35 * board.max_clock_mhz][::every]:
        for phase, batch, context in POINTS:
            load = (
                Load.decode(batch, batch * context)
                if phase == "decode"
                else Load.prefill([(context, 0)] * batch)
            )
            step = plant.iterate(load, mhz)
            add((phase, batch, context), step.clock_mhz, step.latency_s, step.power_w)
        add(("idle", 0, 0), mhz, math.nan, plant.idle_power_w(mhz))
    return rows


def moved(
    base: HardwareProfile, model: ModelProfile, *, boards: int = 1, seed: int = 0, by: float = 0.3
) -> tuple[HardwareProfile, dict[str, float]]:
    """A board whose coefficients are off those of `base` at random, and the coefficients."""
    rng, gemm = np.random.default_rng(seed), f"gemm_{weight_format(model.layer_dtype).arithmetic}"

    def shifted(values: dict[str, float]) -> dict[str, float]:
        return {
            name: value
            * float(np.exp(rng.uniform(-by, by) * (0.2 if name == coefficients.VOLTAGE else 1.0)))
            for name, value in values.items()
        }

    times = shifted(coefficients.time_values(base, boards))
    board = coefficients.with_times(base, times)
    powers = shifted(coefficients.power_values(board, gemm))
    return coefficients.with_powers(board, gemm, powers), times | powers


def write_csv(path: Path, rows: list[Measurement]) -> Path:
    """The rows as a file that `voltana plant fit` reads."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("phase", "batch", "context", "clock_mhz", "latency_ms", "power_w"))
        for row in rows:
            latency = "" if math.isnan(row.latency_s) else repr(1e3 * row.latency_s)
            writer.writerow(
                (row.phase, row.batch, row.context, row.clock_mhz, latency, repr(row.power_w))
            )
    return path
