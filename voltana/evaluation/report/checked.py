"""What a run or a sweep wrote, checked before anything is drawn of it.

Files get damaged, edited and mixed up; a page of impossible figures looks as sound as any other.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from voltana.errors import ConfigError, invalid
from voltana.evaluation.report.series import TAIL
from voltana.evaluation.units import J_PER_KWH

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    Json = Mapping[str, Any]

SHARES = (
    "ttft_attainment", "itl_attainment", "itl_token_attainment", "prefill_busy", "decode_busy",
    "colocated_busy", "certified_share", "saturated_share", "void_share", "violation_rate",
    "certified_violation_rate", "prefix_hit_rate",
)  # fmt: skip
"""Of a result: from 0 to 1, null where there is nothing to measure."""

AMOUNTS = (
    "energy_j", "prefill_energy_j", "decode_energy_j", "colocated_energy_j",
    "energy_per_request_j", "energy_per_output_token_j", "ttft_p50_s", "ttft_p99_s", "itl_p50_s",
    "itl_p99_s", "requests_offered", "requests_completed", "clock_changes", "prefill_clock_mhz",
    "decode_clock_mhz", "colocated_clock_mhz", "mean_power_w", "peak_power_w", "retractions",
    "iterations", "simulated_s",
)  # fmt: skip
"""Of a result: at least 0, null likewise."""

_COUNTED = {"bindings": 1.0, "guarantee": math.inf, "viability": math.inf, "requests": math.inf}
"""Objects of a result, and the most that a figure in them can be."""

SAVED = "energy_saved_vs_static_max"

_ROUNDING = 1e-6
_INSTANCE = ("clock_mhz", "batch", "latency_ms")
_CLUSTER = {"waiting": "t_s", "kv_tokens": "t_s", "power_w": "power_t_s", "budget_w": "power_t_s"}
"""Series over time of all instances, and the times that they lie at."""

_TAILS = ("ttft_ms", "itl_ms")


def said(error: Exception) -> str:
    """What is wrong with figures whose use raised an error, in words of their reader."""
    match error:
        case KeyError(args=(name,)):
            return f"{name!r} is missing"
        case LookupError():
            return "a list is shorter than it should be"
        case UnicodeError():
            return "a name is no text that can be written"
        case _:
            return "something in it is of another kind than it should be, or no finite number"


def check_results(results: Sequence[Json], where: str, remedy: str) -> None:
    """Refuse figures that no run can have.

    Args:
        results: One a policy, or a scenario and policy.
        where: What they were read from, for errors.
        remedy: What to do then.

    Raises:
        ConfigError: If there are some; it names the first.
    """
    if not isinstance(results, list):
        raise ConfigError(f"{where} holds no list of results. {remedy}")
    for number, result in enumerate(results, start=1):
        place = f"{where}, result {number}"
        if not isinstance(result, dict):
            raise ConfigError(f"{place} is {result!r:.80}: must be an object. {remedy}")
        for name in SHARES:
            _check(f"{place}: {name}", result.get(name), (0.0, 1.0), remedy)
        for name in AMOUNTS:
            _check(f"{place}: {name}", result.get(name), (0.0, math.inf), remedy)
        for name, most in _COUNTED.items():
            _check_all(f"{place}: {name}", result.get(name), (0.0, most), remedy)
        _check(f"{place}: {SAVED}", result.get(SAVED), (-math.inf, 1.0), remedy)
        _check_sums(place, result, remedy)


def check_scenario(scenario: Json, where: str, remedy: str) -> None:
    """Refuse numbers that no scenario has: one below 0, or that is not finite.

    Args:
        scenario: As results hold it.
        where: What it was read from, for errors.
        remedy: What to do then.

    Raises:
        ConfigError: If there is one; it names the first.
    """
    _check_all(f"{where}: scenario", scenario, (0.0, math.inf), remedy)


def _check_sums(place: str, result: Json, remedy: str) -> None:
    """Energies of roles add up, and no more requests were finished than arrived."""
    energy_j, parts_j = result.get("energy_j"), _parts_j(result)
    if energy_j is not None and parts_j is not None and not _close(energy_j, parts_j):
        raise invalid(
            f"{place}: energy_j", energy_j, f"the {parts_j:.6g} J of its roles together", remedy
        )
    offered, done = result.get("requests_offered"), result.get("requests_completed")
    if offered is not None and done is not None and done > offered:
        allowed = f"at most requests_offered = {offered}"
        raise invalid(f"{place}: requests_completed", done, allowed, remedy)


def _parts_j(result: Json) -> float | None:
    names = ("prefill_energy_j", "decode_energy_j", "colocated_energy_j")
    known = [result[name] for name in names if result.get(name) is not None]
    return sum(known) if len(known) > 1 else None


def check_series(series: Json, results: Sequence[Json], where: str, remedy: str) -> None:
    """Refuse series that cannot be drawn, or that are of another run than the results.

    Args:
        series: As `voltana.evaluation.report.series.series_of` makes them.
        results: Those of the run, checked.
        where: What the series were read from, for errors.
        remedy: What to do then.

    Raises:
        ConfigError: If so.
    """
    policies = series["policies"]
    if [policy["policy"] for policy in policies] != [result["policy"] for result in results]:
        raise ConfigError(f"{where} is of other policies than the results beside it. {remedy}")
    for policy, result in zip(policies, results, strict=True):
        place = f"{where}, policy {policy['policy']!r:.80}"
        _check_units(place, policy["units"], result, remedy)
        for name in ("reasons", "statuses"):
            _check_all(f"{place}: {name}", policy[name], (0.0, math.inf), remedy)
        for instance in policy["instances"]:
            for name in ("t_s", *_INSTANCE):
                told = f"{place}, {instance['instance']}: {name}"
                _check_line(told, instance[name], len(instance["t_s"]), remedy)
        for name in policy["cluster"]:
            across = len(policy["cluster"][_CLUSTER.get(name, name)])
            _check_line(f"{place}: {name}", policy["cluster"][name], across, remedy)
        for name in _TAILS:
            _check_line(f"{place}: {name}", policy[name], len(TAIL), remedy)


def _check_units(place: str, units: Json, result: Json, remedy: str) -> None:
    for name, value in units.items():
        if name != "source":
            _check(f"{place}: {name}", value, (0.0, math.inf), remedy)
    total_j = units["total_gpu_energy_j"]
    same = {"its results": result["energy_j"], "its kWh": _joules(units["total_gpu_energy_kwh"])}
    for whose, energy_j in same.items():
        if not _close(total_j, energy_j):
            allowed = f"the {energy_j} J of {whose}"
            raise invalid(f"{place}: total_gpu_energy_j", total_j, allowed, remedy)


def _joules(kwh: float | None) -> float | None:
    return None if kwh is None else kwh * J_PER_KWH


def _check_line(field: str, values: Any, length: int, remedy: str) -> None:
    if not isinstance(values, list) or len(values) != length:
        raise ConfigError(f"{field} must be a list of {length} figures. {remedy}")
    for value in values:
        _check(field, value, (0.0, math.inf), remedy)


def _check_all(field: str, value: Any, within: tuple[float, float], remedy: str) -> None:
    """Check every number in objects and lists; text and truth values are left."""
    match value:
        case dict():
            for name, inner in value.items():
                _check_all(f"{field}.{name}", inner, within, remedy)
        case list():
            for inner in value:
                _check_all(field, inner, within, remedy)
        case int() | float() if not isinstance(value, bool):
            _check(field, value, within, remedy)


def _check(field: str, value: Any, within: tuple[float, float], remedy: str) -> None:
    if value is None:
        return
    least, most = within
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not (number and math.isfinite(value) and least - _ROUNDING <= value <= most + _ROUNDING):
        ends = [f"at least {least:g}"] * math.isfinite(least)
        ends += [f"at most {most:g}"] * math.isfinite(most)
        shown = value if number else str(value)[:80]
        raise invalid(field, shown, f"finite, {' and '.join(ends)}", remedy)


def _close(ours: Any, theirs: Any) -> bool:
    """Whether two energies are the same but for rounding; unknown ones are only like each other."""
    if ours is None or theirs is None:
        return ours is theirs
    return math.isclose(ours, theirs, rel_tol=_ROUNDING, abs_tol=_ROUNDING)
