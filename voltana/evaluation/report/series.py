"""A run reduced to what its report draws: a few hundred points a series, whatever its length."""

from __future__ import annotations

import math
import shlex
from typing import TYPE_CHECKING, Any

import numpy as np

from voltana.errors import ConfigError
from voltana.evaluation.binning import binned
from voltana.evaluation.metrics import weighted_percentiles
from voltana.evaluation.units import spent, units
from voltana.users_file import load_json, read_text
from voltana.values import Role

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from voltana.controllers.budget_schedule import BudgetSchedule
    from voltana.evaluation.compare import Comparison, PolicyRun
    from voltana.evaluation.tariff import Tariff
    from voltana.plant.record import InstanceRecord, RunRecord
    from voltana.values import FloatArray

FORM = 1
"""Of the file; counts up when what it holds changes."""

SERIES = "series.json"
MOST_BYTES = 1 << 30
"""What a run writes is no longer."""

BINS = 240
SHOWN_INSTANCES = 4
"""Instances of each role that are drawn."""

TAIL = np.concatenate([np.linspace(1, 0.1, 31), np.geomspace(0.1, 1e-4, 50)[1:]])
"""Shares of the tail at which latencies are kept."""


def series_of(comparison: Comparison, tariffs: Mapping[str, Tariff]) -> dict[str, Any]:
    """Everything that a report draws, as plain JSON values.

    Args:
        comparison: With recorded timelines.
        tariffs: By what they count, such as ``EUR`` or ``gCO2e``.
    """
    return {
        "form": FORM,
        "policies": [_policy(run, comparison, tariffs) for run in comparison.runs],
        "tariffs": {name: tariff.source for name, tariff in tariffs.items()},
    }


def read_series(folder: Path) -> dict[str, Any]:
    """What `series_of` made, from a folder of `voltana simulate --out`.

    Raises:
        ConfigError: If it is not there or of another version.
    """
    path = folder / SERIES
    try:
        found = load_json(read_text(path, MOST_BYTES))
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(
            f"{str(path)!r} cannot be read: {reason}. Run it again: {command_again(folder)}."
        ) from None
    if not isinstance(found, dict) or found.get("form") != FORM:
        raise ConfigError(
            f"{str(path)!r} is of another version of voltana. Run it again: "
            f"{command_again(folder)}."
        )
    return found


def command_again(folder: Path) -> str:
    """What makes a run's folder anew, for a shell."""
    scenario, out = shlex.quote(str(folder / "scenario.toml")), shlex.quote(str(folder))
    return f"voltana simulate {scenario} --out {out}"


def _policy(
    run: PolicyRun, comparison: Comparison, tariffs: Mapping[str, Tariff]
) -> dict[str, Any]:
    record = run.record
    return {
        "policy": run.result.policy,
        "instances": [_instance(i, record.end_s) for i in _shown(record)],
        "cluster": {**_cluster(record), **_budget(record, comparison.scenario.budget)},
        "ttft_ms": _tail_ms(record.ttft_s),
        "itl_ms": _tail_ms(record.gap_s, record.gap_tokens),
        "reasons": {role.value: dict(counts) for role, counts in run.reasons.items()},
        "statuses": _statuses(record),
        "units": units(record, comparison.scenario),
        "spent": {name: spent(record, tariff) for name, tariff in tariffs.items()},
    }


def _shown(record: RunRecord) -> Iterable[InstanceRecord]:
    for role in Role:
        yield from [i for i in record.instances if i.role is role][:SHOWN_INSTANCES]


def _instance(instance: InstanceRecord, end_s: float) -> dict[str, Any]:
    timeline = instance.timeline
    made: dict[str, Any] = {"instance": instance.instance, "role": instance.role.value}
    middle_s, _, clock_mhz, _ = binned(timeline.start_s, timeline.clock_mhz, end_s, BINS)
    _, _, batch, _ = binned(timeline.start_s, timeline.batch, end_s, BINS)
    _, _, _, worst_s = binned(timeline.start_s, timeline.latency_s, end_s, BINS)
    made["t_s"] = rounded(middle_s)
    made["clock_mhz"] = rounded(clock_mhz)
    made["batch"] = rounded(batch)
    made["latency_ms"] = rounded(1e3 * worst_s)
    return made


def _cluster(record: RunRecord) -> dict[str, Any]:
    """Power, requests that wait and tokens in decode's KV cache, over time."""
    edges_s = np.linspace(0.0, record.end_s, BINS + 1)
    at_s = (edges_s[:-1] + edges_s[1:]) / 2
    arrived = np.searchsorted(np.sort(record.arrival_s), at_s, side="right")
    first = np.searchsorted(np.sort(record.first_token_s), at_s, side="right")
    stretches_s = _stretches_s(record)
    return {
        "t_s": rounded(at_s),
        "waiting": rounded(arrived - first),
        "kv_tokens": rounded(kv_tokens(record, at_s)),
        "power_t_s": rounded(stretches_s[:-1]),
        "power_w": rounded(_means_w(record, stretches_s)),
    }


def _budget(record: RunRecord, budget: BudgetSchedule | None) -> dict[str, Any]:
    """The power budget over the stretches of the power; nothing where there is none."""
    if budget is None:
        return {}
    return {"budget_w": rounded(budget.means_w(_stretches_s(record)))}


def _stretches_s(record: RunRecord) -> FloatArray:
    """Where the stretches of the power begin, and where the last one ends."""
    return np.linspace(0.0, record.end_s, min(BINS, len(record.power_w) or 1) + 1)


def _means_w(record: RunRecord, edges_s: FloatArray) -> FloatArray:
    """Mean power of all boards between each two times: their mean is that of the run.

    Within a second it is taken to be even, and so is what is left after the last whole one.
    """
    seconds = len(record.power_w)
    known_s = np.append(np.arange(seconds + 1.0), record.end_s)
    drawn_j = np.concatenate([[0.0], np.cumsum(record.power_w), [record.energy_j()]])
    means_w: FloatArray = np.diff(np.interp(edges_s, known_s, drawn_j)) / np.diff(edges_s)
    return means_w


def kv_tokens(record: RunRecord, at_s: FloatArray) -> FloatArray:
    """Tokens of the requests that decode at each time: prompts, and answers as they grow.

    A request's answer is taken to grow evenly between its first and its last token. Requests that
    got no last token are left out.

    Args:
        record: Of the run.
        at_s: Ascending; shape (n,).

    Returns:
        Shape (n,).
    """
    done = np.isfinite(record.completed_s)
    begin_s, end_s = record.first_token_s[done], record.completed_s[done]
    tokens = record.output_tokens[done].astype(np.float64)
    slope = tokens / np.maximum(end_s - begin_s, 1e-9)
    base = record.prompt_tokens[done] - slope * begin_s
    total = np.zeros(len(at_s))
    for times_s, sign in ((begin_s, 1.0), (end_s, -1.0)):
        order = np.argsort(times_s)
        reached = np.searchsorted(times_s[order], at_s, side="right")
        for values, scale in ((base, 1.0), (slope, at_s)):
            sums = np.concatenate([[0.0], np.cumsum(values[order])])
            total += sign * sums[reached] * scale
    return np.maximum(total, 0.0)


def _tail_ms(values_s: FloatArray, weights: Any = None) -> list[float | None]:
    kept = weighted_percentiles(values_s, tuple(100 * (1 - TAIL)), weights)
    return rounded(1e3 * np.array(kept))


def _statuses(record: RunRecord) -> dict[str, dict[str, int]]:
    made: dict[str, dict[str, int]] = {}
    for instance in record.instances:
        counts = made.setdefault(instance.role.value, {})
        for status, count in instance.statuses.items():
            counts[status.value] = counts.get(status.value, 0) + count
    return made


def rounded(values: Any) -> list[float | None]:
    """Four significant digits, which a plot can show; None where a value is not finite."""
    return [
        float(f"{value:.4g}") if math.isfinite(value) else None
        for value in np.asarray(values, dtype=np.float64).tolist()
    ]
