"""What a sweep runs: a grid or a list of scenario fields, laid over one scenario.

Every scenario is checked before the first is run. What identifies one is a digest of all that its
figures follow from: every field with its default filled in, and the content of the files that it
names. So the same scenario is run once, in whatever grid it comes up again.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from voltana.config import parse_scenario
from voltana.errors import ConfigError, VoltanaError, invalid
from voltana.evaluation.best_fixed import REFERENCE
from voltana.evaluation.scenario import ARRIVALS, check_scenario, overlay
from voltana.evaluation.sweep.fields import (
    POLICIES,
    as_tables,
    check_once,
    check_values,
    field_name,
)
from voltana.evaluation.sweep.named_files import digest_of
from voltana.evaluation.sweep.work import policy_from
from voltana.plant.workload.arrivals.process import check_rate
from voltana.plant.workload.lengths import load_lengths

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from voltana.config import ScenarioFile

_MOST_SHOWN = 400
"""Characters of a scenario in an error."""

MOST_POINTS = 100_000
"""Scenarios of one sweep; each is a record of its own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """One scenario of a sweep.

    Attributes:
        key: What identifies it.
        file: The scenario, with nothing left to a default.
        digests: Of the content of the files that it names, by path.
    """

    key: str
    file: ScenarioFile
    digests: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a sweep runs.

    Attributes:
        points: Each scenario once, in the order of the grid (the last axis fastest) or of the list.
        fields: The fields that were varied.
        policy_source: ``MODULE:FUNCTION`` that makes the policies by name; None: the known ones.
    """

    points: tuple[Point, ...]
    fields: tuple[str, ...] = ()
    policy_source: str | None = None


class _Checks:
    """Checks what several scenarios share once.

    A seed, a rate or a length of time cannot make a name unknown or an SLO impossible.
    """

    def __init__(self, policy_source: str | None) -> None:
        self._source = policy_source
        self._served: dict[str, ScenarioFile] = {}
        self._digests: dict[Path, str] = {}
        self._made: set[str] = set()
        self._workloads: set[str] = set()

    def explicit(self, file: ScenarioFile) -> ScenarioFile:
        """The scenario with every default filled in."""
        if file.workload is not None:
            check_rate(file.workload.rate_rps, file.workload.duration_s)
            if file.workload.name not in self._workloads:
                load_lengths(file.workload.name)
                self._workloads.add(file.workload.name)
        asked = file if self._source is None else self._from_source(self._source, file)
        free = {"seed": 0, "workload": None, "trace": None}
        shared = json.dumps(asked.model_copy(update=free).model_dump(mode="json"), sort_keys=True)
        if shared not in self._served:
            self._served[shared] = check_scenario(asked)
        served = self._served[shared]
        update: dict[str, Any] = {"policies": tuple(dict.fromkeys(file.policies))}
        if file.trace is not None:  # workers may run elsewhere
            update["trace"] = file.trace.model_copy(update={"file": file.trace.file.resolve()})
        if file.workload is not None and file.workload.rates_file is not None:
            rates = file.workload.rates_file.resolve()
            update["workload"] = file.workload.model_copy(update={"rates_file": rates})
        return file.model_copy(
            update={
                **update,
                "cluster": served.cluster,
                "engine": served.engine,
                "power_budget_file": served.power_budget_file,
            }
        )

    def point(self, file: ScenarioFile) -> Point:
        """A scenario under the digest of itself and of the files that it names."""
        named = [self._digest(path) for path in _named_files(file)]
        said = [file.model_dump(mode="json"), [digest for _, digest in named], self._source]
        key = hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()[:24]
        return Point(key=key, file=file, digests=dict(named))

    def _from_source(self, source: str, file: ScenarioFile) -> ScenarioFile:
        for name in set(file.policies) - self._made:
            policy_from(source, name)
            self._made.add(name)
        return file.model_copy(update={"policies": (REFERENCE,)})

    def _digest(self, path: Path) -> tuple[str, str]:
        if path not in self._digests:
            self._digests[path] = digest_of(path)
        return str(path), self._digests[path]


def _named_files(file: ScenarioFile) -> list[Path]:
    """The files that a scenario's figures follow from."""
    profiles = (Path(file.cluster.hardware), Path(file.cluster.model))
    found = [path for path in profiles if path.suffix in {".toml", ".json"}]
    if file.trace is not None:
        found.append(file.trace.file)
    if file.workload is not None and file.workload.rates_file is not None:
        found.append(file.workload.rates_file)
    if file.power_budget_file is not None:
        found.append(file.power_budget_file)
    return found


def make_plan(
    base: Mapping[str, Any],
    grid: Mapping[str, Sequence[Any]] | None = None,
    rows: Sequence[Mapping[str, Any]] | None = None,
    *,
    policy_source: str | None = None,
) -> Plan:
    """Lay a grid, a list, or each row of a list with a grid, over a scenario.

    Args:
        base: Tables of the scenario, as `voltana.evaluation.scenario.read_tables` gives them.
        grid: Values by field, named as in `field_name`; every combination is run.
        rows: Values by field, one scenario each.
        policy_source: ``MODULE:FUNCTION``; makes the policy of a name, in place of the known names.
            The module is imported by the workers.

    Raises:
        ConfigError: If there is nothing to run, a field is unknown or named twice, or a scenario
            cannot be run; the text says which.
    """
    axes = _named(grid or {})
    for name, values in axes.items():
        check_values(name, tuple(values))
    listed = [{}] if rows is None else [_named(row) for row in rows]
    for names in dict.fromkeys(map(tuple, listed)):
        check_once([*names, *axes])
    count = scenario_count(axes, rows)
    if count == 0 or (rows is None and not axes):
        raise ConfigError(
            "the sweep is empty: no field is varied. Give at least one --grid FIELD=VALUES, or a "
            "--list with at least one row."
        )
    if count > MOST_POINTS:
        raise invalid("sweep", count, f"at most {MOST_POINTS} scenarios", "Take fewer values.")
    checks = _Checks(policy_source)
    points: dict[str, Point] = {}
    for values in _combined(listed, axes):
        try:
            point = checks.point(checks.explicit(parse_scenario(overlay(base, as_tables(values)))))
        except VoltanaError as error:
            raise ConfigError(f"{_shown(values)}: {error}") from error
        points.setdefault(point.key, point)
    varied = dict.fromkeys(name for row in listed for name in row) | dict.fromkeys(axes)
    return Plan(points=tuple(points.values()), fields=tuple(varied), policy_source=policy_source)


def scenario_count(
    grid: Mapping[str, Sequence[Any]], rows: Sequence[Mapping[str, Any]] | None
) -> int:
    """How many scenarios a grid, a list or both make, duplicates counted."""
    axes = (1 if name == POLICIES else len(values) for name, values in grid.items())
    return (1 if rows is None else len(rows)) * math.prod(axes)


def _combined(
    rows: Sequence[Mapping[str, Any]], axes: Mapping[str, Sequence[Any]]
) -> Iterator[dict[str, Any]]:
    """Rows outside, the grid's last axis fastest. An axis of policies is one comparison."""
    compared = {name: [list(axes[name])] for name in axes if name == POLICIES}
    if compared and any(isinstance(value, list) for value in axes[POLICIES]):
        compared = {}
    for row in rows:
        for values in itertools.product(*({**axes, **compared}).values()):
            yield {**row, **dict(zip(axes, values, strict=True))}


def _named(values: Mapping[str, Any]) -> dict[str, Any]:
    named: dict[str, Any] = {}
    for given, value in values.items():
        name = field_name(given)
        if name in named:
            raise ConfigError(f"field {given!r} is varied twice. Give all its values at once.")
        named[name] = value
    return named


def _shown(values: Mapping[str, Any]) -> str:
    shown = (f"{name.removeprefix(f'{ARRIVALS}.')} = {value}" for name, value in values.items())
    said = ", ".join(shown) or "scenario"
    return said if len(said) <= _MOST_SHOWN else f"{said[:_MOST_SHOWN]}..."
