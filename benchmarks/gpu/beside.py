"""Iterations under load as the plugin, the engine and the plant time them, beside each other."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from benchmarks.gpu.engine_times import EngineTime
    from voltana.plant import PlantModel
    from voltana.serving.ring_records import Record
    from voltana.values import Load

WITHIN = 64
"""So far ahead the engine's own record of an iteration is looked for: either side may lose some."""


def beside(
    records: Sequence[Record],
    times: Sequence[EngineTime],
    plant: PlantModel | None,
    clocks_mhz: Sequence[float],
) -> dict[str, dict[str, float | int]]:
    """Figures by kind of iteration: prefill, decode, mixed.

    Args:
        records: Finished iterations, by the plugin.
        times: The engine's own of the same stretch; empty where it tells none.
        plant: What else is held beside them; None without.
        clocks_mhz: At each record.
    """
    engine_s = _engine_times(records, times)
    rows: dict[str, list[tuple[float, float, float]]] = {}
    for record, engine, clock_mhz in zip(records, engine_s, clocks_mhz, strict=True):
        expected_s = _of_plant(plant, record.load, clock_mhz)
        rows.setdefault(kind_of(record.load), []).append((record.latency_s, engine, expected_s))
    return {kind: _figures(np.array(found)) for kind, found in rows.items()}


def _engine_times(records: Sequence[Record], times: Sequence[EngineTime]) -> list[float]:
    """The engine's seconds of each record, nan where it has none: the next one of an equal load."""
    found, at = [], 0
    for record in records:
        load = record.load
        wanted = (load.prefill_tokens, load.decode_requests, load.decode_kv_tokens)
        ahead = enumerate(islice(times, at, at + WITHIN), at)
        same = next((i for i, t in ahead if (t[0], t[1], t[3]) == wanted), None)
        found.append(float("nan") if same is None else times[same].seconds)
        at = at if same is None else same + 1
    return found


def _of_plant(plant: PlantModel | None, load: Load, clock_mhz: float) -> float:
    if plant is None or not np.isfinite(clock_mhz):
        return float("nan")
    clocks = plant.hardware.clocks_mhz
    return plant.latency_s(load, float(np.clip(clock_mhz, clocks[0], clocks[-1])))


def kind_of(load: Load) -> str:
    """What an iteration computes: prefill, decode, or both."""
    if load.prefill_tokens and load.decode_requests:
        return "mixed"
    return "prefill" if load.prefill_tokens else "decode"


def _figures(rows: np.ndarray) -> dict[str, float | int]:
    plugin_s, engine_s, plant_s = rows.T
    known = np.isfinite(engine_s)
    figures: dict[str, float | int] = {
        "iterations": len(rows),
        "median_ms": round(1e3 * float(np.median(plugin_s)), 4),
        "p99_ms": round(1e3 * float(np.percentile(plugin_s, 99)), 4),
        "matched": int(known.sum()),
    }
    if known.any():
        off = plugin_s[known] / engine_s[known] - 1
        figures["engine_median_ms"] = round(1e3 * float(np.median(engine_s[known])), 4)
        figures["engine_p99_ms"] = round(1e3 * float(np.percentile(engine_s[known], 99)), 4)
        figures["over_engine"] = round(float(np.median(off)), 4)
        figures["over_engine_p99"] = round(float(np.percentile(off, 99)), 4)
    if np.isfinite(plant_s).all():
        figures["plant_ms"] = round(1e3 * float(np.median(plant_s)), 4)
        figures["plant_time_error"] = round(float(np.median(plant_s / plugin_s - 1)), 4)
    return figures
