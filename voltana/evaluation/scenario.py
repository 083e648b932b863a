"""Scenarios: read from TOML, laid over with flags, resolved to what is simulated, written back."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from voltana.config import parse_scenario
from voltana.controllers.budget_schedule import BudgetSchedule
from voltana.errors import ConfigError, invalid
from voltana.evaluation import best_fixed
from voltana.evaluation.best_fixed import BestFixed
from voltana.evaluation.budget_file import read_budget
from voltana.evaluation.budget_floor import check_budget
from voltana.levels import parse_levels
from voltana.plant.cluster import ClusterSpec, EngineOptions
from voltana.plant.disturbance import Disturbance
from voltana.plant.hardware import load_hardware
from voltana.plant.iteration import PlantModel
from voltana.plant.model import load_model
from voltana.plant.workload import Trace, make_workload, read_trace
from voltana.plant.workload.arrivals import read_client_rates
from voltana.policies import get_policy, with_overrides, with_power_budget
from voltana.policies.fixed import require_clocks
from voltana.policies.published import V01, refuses_colocated
from voltana.policy import FIXED_PREFIX, load_object
from voltana.slo import Slo
from voltana.users_file import read_toml
from voltana.values import Load

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from voltana.config import ScenarioFile, SloTable
    from voltana.controllers.power_budget import PowerBudget
    from voltana.policy import Policy


ARRIVALS = "arrivals"
"""Flags that mean the same for a trace and for a synthetic workload."""

_PATHS = (
    ("trace", "file"),
    ("workload", "rates_file"),
    ("cluster", "hardware"),
    ("cluster", "model"),
)
"""Keys that may hold a path; a profile is one if it ends like a file."""

_BUDGET = "power_budget_file"
DEFAULT_SHARES = "worth"

_ONE_REQUEST = Trace(
    arrival_s=np.zeros(1),
    prompt_tokens=np.ones(1, dtype=np.int64),
    output_tokens=np.ones(1, dtype=np.int64),
)
"""Stands for what arrives where that says nothing of what is checked."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Scenario:
    """Everything that a comparison of policies needs.

    Attributes:
        file: The scenario with nothing left to a default, as it can be written and run again.
        cluster: What serves.
        plant: Latency and power of its boards.
        trace: What arrives.
        policies: What is compared, each under the name that the user gave.
        budget: The power budget over time; None sets none.
    """

    file: ScenarioFile
    cluster: ClusterSpec
    plant: PlantModel
    trace: Trace
    policies: Mapping[str, Policy | BestFixed]
    budget: BudgetSchedule | None = None

    def configured(
        self, policy: Policy, on_ledger: Callable[[PowerBudget], object] | None = None
    ) -> Policy:
        """The policy as it is run here: within the power budget, on the user's levels and model.

        Args:
            policy: As it was named.
            on_ledger: Called with each ledger of the power budget, if there is one.
        """
        if self.budget is None:
            return self.overridden(policy)
        shares = self.file.power_shares or DEFAULT_SHARES
        return self.overridden(
            with_power_budget(policy, self.budget, shares=shares, on_ledger=on_ledger)
        )

    def overridden(self, policy: Policy) -> Policy:
        """The policy on the user's levels and model alone."""
        return with_overrides(policy, levels=self.file.levels, predictor=self.file.predictor)


def read_tables(path: Path) -> dict[str, Any]:
    """Read a scenario file; relative paths in it are taken relative to the file.

    Raises:
        ConfigError: If it cannot be read or is not TOML.
    """
    try:
        tables = read_toml(path)
    except OSError as error:
        raise ConfigError(
            f"scenario {str(path)!r} cannot be read: {error.strerror}. Check the path."
        ) from None
    except ValueError as error:
        raise ConfigError(
            f"scenario {str(path)!r} is not TOML: {error}. See docs/simulate.md for an example."
        ) from None
    budget = tables.get(_BUDGET)
    if isinstance(budget, str):
        tables[_BUDGET] = str(path.parent / budget)
    for table, key in _PATHS:
        inner = tables.get(table)
        if isinstance(inner, dict) and _is_path(table, inner.get(key)):
            inner[key] = str(path.parent / inner[key])
    return tables


def overlay(tables: Mapping[str, Any], flags: Mapping[str, Any]) -> dict[str, Any]:
    """Lay flags over a file: a flag wins, None leaves what the file says.

    A flag for a trace replaces the file's synthetic workload, and the other way round; so do a
    constant power budget and one over time.

    Args:
        tables: As read from the file; not changed.
        flags: Nested like `tables`; those under `ARRIVALS` go to the trace if there is one, and
            to the synthetic workload otherwise.
    """
    given = _without_none(flags)
    merged = dict(tables)
    if "trace" in given and "workload" not in given:
        merged.pop("workload", None)
    if "workload" in given and "trace" not in given:
        merged.pop("trace", None)
    for name, other in (("power_budget_w", _BUDGET), (_BUDGET, "power_budget_w")):
        if name in given:
            merged.pop(other, None)
    arrivals = given.pop(ARRIVALS, {})
    if arrivals:
        source = "trace" if "trace" in given or "trace" in merged else "workload"
        given[source] = {**given.get(source, {}), **arrivals}
    for key, value in given.items():
        base = merged.get(key)
        merged[key] = {**base, **value} if isinstance(base, dict) else value
    return merged


def resolve(file: ScenarioFile) -> Scenario:
    """Load the profiles, the trace and the policies that a scenario names.

    Raises:
        ConfigError: If a name is unknown, a file cannot be read, or no request could ever keep
            the SLO.
    """
    cluster, plant, policies = _served(file)
    return Scenario(
        file=_explicit(file, cluster),
        cluster=cluster,
        plant=plant,
        trace=_make_trace(file),
        policies=policies,
        budget=_budget(file),
    )


def check_scenario(file: ScenarioFile) -> ScenarioFile:
    """Check all that a scenario names but its trace, and fill in every default.

    Raises:
        ConfigError: As `resolve`, and if its power budget does not cover the cluster.
    """
    cluster, plant, policies = _served(file)
    explicit, budget = _explicit(file, cluster), _budget(file)
    check_budget(
        Scenario(
            file=explicit,
            cluster=cluster,
            plant=plant,
            trace=_ONE_REQUEST,
            policies=policies,
            budget=budget,
        )
    )
    return explicit


def _budget(file: ScenarioFile) -> BudgetSchedule | None:
    if file.power_budget_file is None:
        constant_w = file.power_budget_w
        return None if constant_w is None else BudgetSchedule.constant(constant_w)
    return read_budget(file.power_budget_file)


def _served(
    file: ScenarioFile,
) -> tuple[ClusterSpec, PlantModel, dict[str, Policy | BestFixed]]:
    """What serves, its boards' latency and power, and the policies."""
    hardware, model = load_hardware(file.cluster.hardware), load_model(file.cluster.model)
    policies = {name: _policy(name, file, hardware.clocks_mhz) for name in file.policies}
    tensor_parallel = file.cluster.tensor_parallel or model.default_tensor_parallel
    slo = Slo(
        ttft_s=file.slo.ttft_ms / 1e3,
        itl_s=file.slo.itl_ms / 1e3,
        ttft_target=file.slo.ttft_target,
        itl_target=file.slo.itl_target,
        spending=file.slo.spending,
    )
    cluster = ClusterSpec(
        hardware=hardware,
        model=model,
        slo=slo,
        tensor_parallel=tensor_parallel,
        prefill=file.cluster.prefill,
        decode=file.cluster.decode,
        colocated=file.cluster.colocated,
        engine=EngineOptions(**file.engine.model_dump(exclude_none=True)),
        disturbances=tuple(
            Disturbance(**table.model_dump(exclude_none=True)) for table in file.disturbance
        ),
    )
    plant = PlantModel(hardware, model, tensor_parallel)
    _check_possible(file.slo, plant, hardware.clocks_mhz[-1])
    return cluster, plant, policies


def _policy(name: str, file: ScenarioFile, table_mhz: tuple[float, ...]) -> Policy | BestFixed:
    """The policy of a name; what only a run would find out is found out before it."""
    levels_mhz = table_mhz if file.levels is None else parse_levels(file.levels).levels(table_mhz)
    if file.cluster.colocated and name.startswith(V01):
        raise refuses_colocated(name)
    if file.predictor is not None:
        load_object(file.predictor, field="predictor")
    if name.startswith(FIXED_PREFIX):
        require_clocks(name, levels_mhz)
    return BestFixed() if name == best_fixed.NAME else get_policy(name)


def load_scenario(path: Path | None, flags: Mapping[str, Any]) -> Scenario:
    """Read, overlay, validate and resolve; without a file the defaults are the demo.

    Raises:
        ConfigError: As `read_tables`, `voltana.config.parse_scenario` and `resolve`.
    """
    return resolve(parse_scenario(overlay({} if path is None else read_tables(path), flags)))


def to_toml(file: ScenarioFile) -> str:
    """The scenario as TOML that `voltana simulate` can run again."""
    top, tables = [], []
    for key, value in file.model_dump(mode="json", exclude_none=True).items():
        if isinstance(value, dict):
            tables.append(_toml_table(f"[{key}]", value))
        elif isinstance(value, list) and value and isinstance(value[0], dict):
            tables.extend(_toml_table(f"[[{key}]]", row) for row in value)
        else:
            top.append(f"{key} = {_toml_value(value)}")
    return "\n\n".join(("\n".join(top), *tables)) + "\n"


def _toml_table(header: str, table: Mapping[str, Any]) -> str:
    return "\n".join((header, *(f"{key} = {_toml_value(value)}" for key, value in table.items())))


def _toml_value(value: object) -> str:
    """JSON and TOML write strings, numbers, booleans and flat lists alike."""
    return json.dumps(value)


def _without_none(flags: Mapping[str, Any]) -> dict[str, Any]:
    kept: dict[str, Any] = {}
    for key, value in flags.items():
        if isinstance(value, dict):
            inner = _without_none(value)
            if inner:
                kept[key] = inner
        elif value is not None:
            kept[key] = value
    return kept


def _explicit(file: ScenarioFile, cluster: ClusterSpec) -> ScenarioFile:
    """The same scenario with every default filled in and every path made absolute."""
    tables = file.model_dump(mode="json", exclude_none=True)
    tables["policies"] = list(dict.fromkeys(file.policies))
    tables["cluster"]["tensor_parallel"] = cluster.tensor_parallel
    tables["engine"] = _without_none(dataclasses.asdict(cluster.engine))
    if file.power_budget_file is not None:
        tables[_BUDGET] = str(file.power_budget_file.resolve())
    if file.power_budget_file is not None or file.power_budget_w is not None:
        tables.setdefault("power_shares", DEFAULT_SHARES)
    for table, key in _PATHS:
        if table in tables and _is_path(table, tables[table].get(key)):
            tables[table][key] = str(Path(tables[table][key]).resolve())
    return parse_scenario(tables)


def _is_path(table: str, value: object) -> bool:
    return isinstance(value, str) and (table != "cluster" or value.endswith((".toml", ".json")))


def _make_trace(file: ScenarioFile) -> Trace:
    if file.trace is None:
        workload = file.workload
        assert workload is not None
        return make_workload(
            workload.name,
            workload.rate_rps,
            workload.duration_s,
            file.seed,
            arrival=workload.arrival
            if workload.rates_file is None
            else read_client_rates(workload.rates_file, workload.rates_start_s),
            cv=workload.cv,
            max_prompt_tokens=workload.max_prompt_tokens,
            max_output_tokens=workload.max_output_tokens,
        )
    replay = file.trace
    whole = replay.start_s == 0 and replay.duration_s is None
    end_s = float("inf") if replay.duration_s is None else replay.start_s + replay.duration_s
    return read_trace(
        replay.file,
        replay.format,
        time_unit=replay.time_unit,
        window_s=None if whole else (replay.start_s, end_s),
        rate_scale=replay.rate_scale,
        target_rate_rps=replay.rate_rps,
        max_prompt_tokens=replay.max_prompt_tokens,
        max_output_tokens=replay.max_output_tokens,
    )


def _check_possible(slo: SloTable, plant: PlantModel, fastest_mhz: float) -> None:
    """Refuse thresholds below what one request alone takes at the fastest clock."""
    floors = (
        ("ttft", slo.ttft_ms, plant.iterate(Load.prefill([(1, 0)]), fastest_mhz).latency_s),
        ("itl", slo.itl_ms, plant.iterate(Load.decode(1, 1), fastest_mhz).latency_s),
    )
    for name, given_ms, floor_s in floors:
        if given_ms < floor_s * 1e3:
            raise invalid(
                f"slo.{name}_ms",
                given_ms,
                f"at least {floor_s * 1e3:.3g} ms, what one request alone takes at "
                f"{fastest_mhz:g} MHz",
                f"Raise --slo-{name}-ms, or take faster hardware or a smaller model.",
            )
