"""The pydantic models of every file that a user writes; unknown keys are errors.

A scenario file is TOML with the tables ``cluster``, ``slo``, ``workload`` (or ``trace``) and
``engine``; every key has a default, so an empty file is the demo. Command-line flags are laid over
the file before validation, so that both go through the same checks.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, ValidationError, model_validator

from voltana.errors import ConfigError, invalid
from voltana.layout import check_layout
from voltana.user_path import UserPath  # noqa: TC001  (pydantic reads annotations at run time)
from voltana.validation import (
    Count,
    NotNegative,
    Positive,
    Share,
    StrictTable,
    WholeNotNegative,
    explain,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

DEFAULT_POLICIES = ("static-max", "static-low", "window", "voltana-v0.1", "voltana")
"""What ``make demo`` compares."""

COLOCATED_POLICIES = tuple(name for name in DEFAULT_POLICIES if name != "voltana-v0.1")
"""The same where instances are colocated, which the published system does not serve."""

DEFAULT_TTFT_MS = 600.0
"""Threshold of the time to first token. The published system's thresholds are not stated; these two
are those under which its published attainment is reproduced (docs/fidelity.md)."""

DEFAULT_ITL_MS = 65.0
"""Threshold of the inter-token latency, likewise."""


_Instances = Annotated[int, Field(ge=0, le=1024)]

_PAIR = {"prefill", "decode"}


class ClusterTable(StrictTable):
    """The machines and the model that they serve.

    Attributes:
        hardware: Name of a hardware profile.
        model: Name of a model profile.
        tensor_parallel: GPUs of one instance; None takes the model profile's own number.
        prefill: Prefill instances.
        decode: Decode instances.
        colocated: Instances that serve both phases; where they are alone, no others are made.
    """

    hardware: str = Field(default="a100-sxm4-80gb", description="the hardware profile (--hardware)")
    model: str = Field(default="llama-3.1-8b", description="the model profile (--model)")
    tensor_parallel: Count | None = Field(
        default=None, description="the number of GPUs of one instance (--tensor-parallel)"
    )
    prefill: _Instances = Field(
        default=2, description="the number of prefill instances (--prefill)"
    )
    decode: _Instances = Field(default=2, description="the number of decode instances (--decode)")
    colocated: _Instances = Field(
        default=0, description="the number of instances for both phases (--colocated)"
    )

    @model_validator(mode="before")
    @classmethod
    def _alone(cls, given: Any) -> Any:
        """Where colocated instances are asked for, and no pairs, there are none."""
        if isinstance(given, dict) and given.get("colocated") and not given.keys() & _PAIR:
            return {**given, "prefill": 0, "decode": 0}
        return given

    @model_validator(mode="after")
    def _whole_pairs(self) -> ClusterTable:
        check_layout(
            prefill=self.prefill, decode=self.decode, colocated=self.colocated, table="cluster."
        )
        return self


class SloTable(StrictTable):
    """Latency thresholds, and the share of requests that should keep them.

    Attributes:
        ttft_ms: Time to first token, in milliseconds.
        itl_ms: Inter-token latency, in milliseconds.
        ttft_target: Share of requests, in (0, 1).
        itl_target: Share of requests, in (0, 1).
        spending: What a decode iteration may take at most where its requests have been faster than
            the ITL, in ITL thresholds.
    """

    ttft_ms: Positive = Field(
        default=DEFAULT_TTFT_MS,
        description="the time to first token in milliseconds (--slo-ttft-ms)",
    )
    itl_ms: Positive = Field(
        default=DEFAULT_ITL_MS, description="the inter-token latency in milliseconds (--slo-itl-ms)"
    )
    ttft_target: Share = Field(default=0.95, description="the share of requests that keep the TTFT")
    itl_target: Share = Field(default=0.99, description="the share of requests that keep the ITL")
    spending: Annotated[float, Field(ge=1, le=1.5)] = Field(
        default=1.0,
        description="the most ITL thresholds that an iteration may take while its requests have "
        "the slack",
    )


class WorkloadTable(StrictTable):
    """A synthetic workload: a named length distribution and an arrival process.

    Attributes:
        name: Name of the length distribution.
        rate_rps: Mean arrival rate, requests per second.
        duration_s: How long requests arrive.
        arrival: Arrival process.
        rates_file: CSV of rates over time, client by client, for ``rates``. Relative to the
            scenario file.
        rates_start_s: Where in it the run begins.
        cv: Coefficient of variation of the gaps between arrivals, for ``gamma``.
        max_prompt_tokens: Longer prompts are cut to this; None leaves them.
        max_output_tokens: Longer answers are cut to this; None leaves them.
    """

    name: str = Field(default="sharegpt", description="the named workload (--workload)")
    rate_rps: Positive = Field(default=60.0, description="the arrival rate in requests/s (--rate)")
    duration_s: Positive = Field(default=120.0, description="the length in seconds (--duration)")
    arrival: Literal["poisson", "gamma", "diurnal", "rates"] = Field(
        default="poisson", description="the arrival process (--arrival)"
    )
    rates_file: UserPath | None = Field(
        default=None, description="the CSV of rates over time, as ServeGen's (--rates)"
    )
    rates_start_s: NotNegative = Field(
        default=0.0, description="where in the rates the run begins (--rates-start)"
    )
    cv: Positive | None = Field(
        default=None, description="the variation of the gaps of gamma arrivals; 1 is Poisson (--cv)"
    )
    max_prompt_tokens: Count | None = Field(
        default=None, description="where prompts are cut (--max-prompt-tokens)"
    )
    max_output_tokens: Count | None = Field(
        default=None, description="where answers are cut (--max-output-tokens)"
    )

    @model_validator(mode="after")
    def _rates_need_a_file(self) -> WorkloadTable:
        if (self.rates_file is None) == (self.arrival == "rates"):
            raise invalid(
                "workload.rates_file",
                None if self.rates_file is None else str(self.rates_file),
                f"{'left out' if self.rates_file else 'a CSV file'} with {self.arrival} arrivals",
                "Use --arrival rates with --rates FILE, or neither.",
            )
        if self.rates_start_s and self.rates_file is None:
            raise invalid(
                "workload.rates_start_s",
                self.rates_start_s,
                "left out without rates",
                "Give --rates.",
            )
        return self

    @model_validator(mode="after")
    def _cv_needs_gamma(self) -> WorkloadTable:
        if self.cv is not None and self.arrival != "gamma":
            raise invalid(
                "workload.cv",
                self.cv,
                f"left out with {self.arrival} arrivals",
                "Use --arrival gamma for bursts.",
            )
        return self


class TraceTable(StrictTable):
    """The replay of a recorded trace.

    Attributes:
        file: The trace, gzipped or not. Relative to the scenario file.
        format: Its format; ``auto`` looks at the column names.
        time_unit: Unit of its times; ``auto`` takes the format's, unless the times speak against
            it.
        rate_scale: Requests come this many times as fast as recorded.
        rate_rps: Or: they come at this mean rate; None leaves `rate_scale` to say it.
        start_s: Where the replayed window starts, in recorded time.
        duration_s: How long the window is, in recorded time; None replays to the end.
        max_prompt_tokens: Longer prompts are cut to this; None leaves them.
        max_output_tokens: Longer answers are cut to this; None leaves them.
    """

    file: UserPath = Field(description="the trace file (--trace)")
    format: str = Field(default="auto", description="the format of the trace (--trace-format)")
    time_unit: Literal["auto", "s", "ms", "us", "ns"] = Field(
        default="auto", description="the unit of the times of the trace (--time-unit)"
    )
    rate_scale: Positive = Field(
        default=1.0, description="how many times as fast requests come (--rate-scale)"
    )
    rate_rps: Positive | None = Field(
        default=None, description="the arrival rate to scale to, in requests/s (--rate)"
    )
    start_s: NotNegative = Field(
        default=0.0, description="the start of the window in seconds (--window-start)"
    )
    duration_s: Positive | None = Field(
        default=None, description="the length of the window in seconds (--duration)"
    )
    max_prompt_tokens: Count | None = Field(
        default=None, description="where prompts are cut (--max-prompt-tokens)"
    )
    max_output_tokens: Count | None = Field(
        default=None, description="where answers are cut (--max-output-tokens)"
    )


class EngineTable(StrictTable):
    """Options of the simulated engine; None takes the default of `EngineOptions`, field by field.

    Attributes are those of `voltana.plant.cluster.EngineOptions`.
    """

    max_prefill_tokens: Count | None = Field(
        default=None, description="the prompt tokens of one prefill iteration"
    )
    mixed_chunk: bool | None = Field(
        default=None, description="whether colocated instances decode beside prompts"
    )
    max_running_requests: Count | None = Field(
        default=None, description="the requests of one decode batch"
    )
    memory_fraction: Share | None = Field(
        default=None, description="the share of memory for weights and KV cache"
    )
    reserved_decode_tokens: WholeNotNegative | None = Field(
        default=None, description="the room kept for the growth of a running request, in tokens"
    )
    transfer: bool | None = Field(default=None, description="whether moving KV cache takes time")
    latency_noise: NotNegative | None = Field(
        default=None, description="a relative standard deviation"
    )
    sensor_noise: NotNegative | None = Field(
        default=None, description="a relative standard deviation"
    )
    energy_tick_s: Positive | None = Field(
        default=None, description="the period of the energy counter"
    )
    energy_window_s: Positive | None = Field(
        default=None, description="the period of power learning"
    )
    idle_tick_s: Positive | None = Field(
        default=None, description="the period of idle control steps"
    )
    snapshot_period_s: Positive | None = Field(
        default=None, description="the age at which routers get a new predictor snapshot"
    )
    settle_s: NotNegative | None = Field(
        default=None, description="the settling time of a clock change"
    )
    prefix_cache: bool | None = Field(
        default=None, description="whether prompts are kept for others that begin alike"
    )
    page_tokens: Count | None = Field(
        default=None, description="the tokens of a page of the KV cache"
    )
    binding: Literal["early", "late"] | None = Field(
        default=None,
        description="when the decode instance is chosen: with the prefill instance, or after it "
        "(--binding)",
    )


class DisturbanceTable(StrictTable):
    """A slowdown of one instance; attributes are those of `voltana.plant.disturbance.Disturbance`.

    A scenario may have any number of them, as ``[[disturbance]]``.
    """

    instance: str = Field(description="the name of an instance, such as decode-0")
    from_s: NotNegative = Field(default=0.0, description="when it begins")
    until_s: Positive | None = Field(default=None, description="when it ends")
    factor: Positive = Field(default=1.0, description="a factor on the latency")
    pause_s: NotNegative = Field(default=0.0, description="seconds added whatever the clock")


class ScenarioFile(StrictTable):
    """A whole scenario: what is served, on what, under which policies.

    Attributes:
        policies: Names, or ``MODULE:FACTORY`` of a user's own.
        seed: Seed of everything random.
        power_budget_w: Power that all instances together may draw; None sets no budget.
        power_budget_file: The same over time, as CSV of times and watts, in place of
            `power_budget_w`; or TOML or JSON, which may repeat.
        power_shares: How the budget is divided over the instances: by marginal worth, which is what
            None means, or evenly.
        levels: Clocks that may be chosen, as in `voltana.levels.parse_levels`; None leaves them to
            each policy.
        predictor: ``MODULE:FACTORY`` of a user's own latency model, in place of the policies'.
        cluster: The machines and the model.
        slo: The thresholds.
        workload: A synthetic workload; the default unless `trace` is given.
        trace: The replay of a recorded trace, in place of `workload`.
        engine: Options of the simulated engine.
        disturbance: What goes wrong in mid-run.
    """

    policies: tuple[str, ...] = Field(
        default=DEFAULT_POLICIES, min_length=1, description="the policies to compare (--policy)"
    )
    power_budget_w: Positive | None = Field(
        default=None, description="the power of all instances together, in watts (--power-budget)"
    )
    power_budget_file: UserPath | None = Field(
        default=None, description="CSV of times and watts (--budget-schedule)"
    )
    power_shares: Literal["worth", "even"] | None = Field(
        default=None, description="how the power budget is divided (--power-shares)"
    )
    levels: str | None = Field(
        default=None, description="the clocks that may be chosen, such as 'above:900' (--levels)"
    )
    predictor: str | None = Field(
        default=None, description="MODULE:FACTORY of your own latency model (--predictor)"
    )
    seed: WholeNotNegative = Field(default=0, description="the seed of everything random (--seed)")
    cluster: ClusterTable = ClusterTable()
    slo: SloTable = SloTable()
    workload: WorkloadTable | None = None
    trace: TraceTable | None = None
    engine: EngineTable = EngineTable()
    disturbance: tuple[DisturbanceTable, ...] = Field(
        default=(), description="slowdowns of single instances in mid-run ([[disturbance]])"
    )

    @model_validator(mode="after")
    def _one_budget(self) -> ScenarioFile:
        if self.power_budget_w is not None and self.power_budget_file is not None:
            raise ConfigError(
                "the scenario has both 'power_budget_w' and 'power_budget_file': must be one of "
                "them. Remove the key (or flag) that is not meant."
            )
        if (
            self.power_shares is not None
            and self.power_budget_w is None
            and self.power_budget_file is None
        ):
            raise ConfigError(
                f"power_shares = {self.power_shares!r} without a power budget: must be left out, "
                "or have something to divide. Give --power-budget or --budget-schedule."
            )
        return self

    @model_validator(mode="after")
    def _one_source(self) -> ScenarioFile:
        if self.workload is not None and self.trace is not None:
            raise ConfigError(
                "the scenario has both 'workload' and 'trace': must be one of them. "
                "Remove the table (or flag) that is not meant."
            )
        return self


def parse_scenario(tables: Mapping[str, Any]) -> ScenarioFile:
    """Validate a scenario.

    Args:
        tables: As read from TOML, with flags laid over.

    Raises:
        ConfigError: At the first unknown key or value outside its range, naming the remedy.
    """
    cluster = tables.get("cluster")
    if "policies" not in tables and isinstance(cluster, dict) and cluster.get("colocated"):
        tables = {**tables, "policies": list(COLOCATED_POLICIES)}
    try:
        parsed = ScenarioFile.model_validate(tables)
    except ValidationError as error:
        raise explain(error, ScenarioFile) from None
    if parsed.workload is None and parsed.trace is None:
        return parsed.model_copy(update={"workload": WorkloadTable()})
    return parsed
