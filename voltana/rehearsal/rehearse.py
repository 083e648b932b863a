"""Rehearses policies one after the other, beside what the simulator says of them."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from voltana.errors import VoltanaError, invalid
from voltana.evaluation.best_fixed import REFERENCE
from voltana.evaluation.compare import compare
from voltana.evaluation.scenario import load_scenario
from voltana.policies.named import IN_HINDSIGHT
from voltana.rehearsal.company import Company
from voltana.rehearsal.fake_driver import built
from voltana.rehearsal.measured import WAITED_SHARE, Evidence, Lateness, measure, read_records
from voltana.rehearsal.meter import read_log
from voltana.rehearsal.run import LEAD_IN_S, Run
from voltana.rehearsal.spread import spread_of
from voltana.rehearsal.stage import set_stage
from voltana.rehearsal.waiting import most_waited_s, waited_s
from voltana.rehearsal.work_folder import work_folder
from voltana_actuatord.timebase import LEAST_FACTOR, MOST_FACTOR

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path
    from typing import Any

    from voltana.evaluation.compare import Comparison
    from voltana.evaluation.scenario import Scenario
    from voltana.rehearsal.faults import Fault
    from voltana.rehearsal.load import Replayed
    from voltana.rehearsal.measured import Measured
    from voltana.rehearsal.port import Rehearsed
    from voltana.rehearsal.spread import Spread
    from voltana.rehearsal.stage import Stage
    from voltana.serving.config import Config
    from voltana.serving.launch.supervise import Reports


INTERVAL = 8
"""Tokens after which a stream is told again, unless the configuration says otherwise."""


class TooSlowError(VoltanaError):
    """This machine cannot keep up: what was measured would be its own slowness."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Rehearsal:
    """What came of it.

    Attributes:
        comparison: What the simulator says of the same trace and seed.
        spread: How much that differs from seed to seed, by policy.
        measured: What was measured, by policy.
        faulty: The same with each fault, by the fault and by policy.
        evidence: What that was worked out from, likewise.
        factor: Seconds of the rehearsal in one of the wall's.
    """

    comparison: Comparison
    spread: Mapping[str, Spread]
    measured: Mapping[str, Measured]
    faulty: Mapping[str, Mapping[str, Measured]]
    evidence: Mapping[str, Evidence]
    factor: float


def scenario_of(
    config: Config, dialect: Rehearsed, flags: Mapping[str, Any], policies: list[str]
) -> Scenario:
    """What the simulator serves: the cluster of a configuration under a load, after a lead-in.

    Args:
        config: The configuration.
        dialect: The engine's.
        flags: Of the load, nested as a scenario file is.
        policies: What is compared.

    Raises:
        ConfigError: If the configuration lacks what a rehearsal must know.
    """
    launch, engine = config.launch, config.engine
    assert launch is not None
    for policy in policies:
        if policy in IN_HINDSIGHT:
            raise invalid(
                "--policy",
                policy,
                "one that can serve: this one is searched for a trace that is known beforehand",
                "See `voltana policies`.",
            )
    if engine.hardware is None or engine.model is None:
        raise invalid(
            "engine.hardware, engine.model",
            (engine.hardware, engine.model),
            "profiles, for boards and model of a rehearsal are made from them",
            "Name them in the table [engine]; `voltana plant list` shows which there are.",
        )
    if launch.unified:
        raise invalid(
            "launch.unified", launch.unified, "0 in a rehearsal", "The plant knows pairs alone."
        )
    both = [*launch.arguments, *launch.prefill_arguments, *launch.decode_arguments]
    slo = config.slo
    own = {
        "policies": policies,
        "cluster": {
            "hardware": engine.hardware,
            "model": engine.model,
            "tensor_parallel": launch.tensor_parallel,
            "prefill": launch.prefill,
            "decode": launch.decode,
        },
        "slo": slo.model_dump(),
        "engine": dialect.engine_options(both),
        "levels": config.policy.levels,
        "predictor": config.policy.predictor,
    }
    made = load_scenario(None, own | dict(flags))
    later = dataclasses.replace(made.trace, arrival_s=made.trace.arrival_s + LEAD_IN_S)
    return dataclasses.replace(made, trace=later)


@dataclass(frozen=True, slots=True, kw_only=True)
class Director:
    """Has policies rehearsed.

    Attributes:
        config: The configuration.
        scenario: From `scenario_of`.
        dialect: The engine's.
        factor: Seconds of the rehearsal in one of the wall's.
        folder: Where logs and records are kept; None keeps nothing.
        say: Told what goes on.
        faults: What goes wrong, each in a further run of every policy.

    Raises:
        ConfigError: If the factor is outside its range.
    """

    config: Config
    scenario: Scenario
    dialect: Rehearsed
    factor: float
    folder: Path | None
    say: Reports
    faults: Sequence[Fault] = ()

    def __post_init__(self) -> None:
        if not LEAST_FACTOR <= self.factor <= MOST_FACTOR:
            raise invalid(
                "--factor",
                self.factor,
                f"{LEAST_FACTOR:g} to {MOST_FACTOR:g}",
                "0.25 runs four times as slow as the clock on the wall.",
            )

    def run(self) -> Rehearsal:
        """Rehearse every policy of the scenario.

        Raises:
            TooSlowError: If the machine cannot keep up.
            VoltanaError: If something cannot be built or started.
        """
        library = built()
        self.say("simulator", "predicts")
        comparison = compare(self.scenario, record_timelines=self.folder is not None)
        slo, horizon_s = self.scenario.cluster.slo, comparison.reference.record.end_s
        evidence: dict[str, Evidence] = {}
        faulty: dict[str, dict[str, Evidence]] = {str(fault): {} for fault in self.faults}
        for policy in self.scenario.policies:
            self.say(policy, f"is rehearsed at {self.factor:g} seconds a second")
            evidence[policy] = self.rehearsed(policy, library, horizon_s)
            refuse_slow(evidence[policy].lateness, self.factor)
            for fault in self.faults:
                self.say(policy, f"is rehearsed with {fault}")
                found = self.rehearsed(policy, library, horizon_s, fault)
                refuse_slow(found.lateness, self.factor)
                faulty[str(fault)][policy] = found
        self.say("simulator", "tries other seeds")
        spread = spread_of(self.scenario)
        reference_j = math.nan
        if REFERENCE in evidence:
            reference_j = measure(REFERENCE, evidence[REFERENCE], slo, horizon_s=horizon_s).energy_j

        def figures(found: Mapping[str, Evidence]) -> dict[str, Measured]:
            return {
                name: measure(name, one, slo, horizon_s=horizon_s, reference_energy_j=reference_j)
                for name, one in found.items()
            }

        return Rehearsal(
            comparison=comparison,
            spread=spread,
            measured=figures(evidence),
            faulty={fault: figures(found) for fault, found in faulty.items()},
            evidence=evidence,
            factor=self.factor,
        )

    def rehearsed(
        self, policy: str, library: Path, horizon_s: float, fault: Fault | None = None
    ) -> Evidence:
        """Rehearse one policy, whether or not this machine keeps up.

        Args:
            policy: Its name.
            library: Folder of the fake driver.
            horizon_s: Up to when it goes on at least, in seconds from the trace's start.
            fault: What goes wrong meanwhile.

        Raises:
            VoltanaError: If something cannot be started, or ends that should not.
        """
        name = policy if fault is None else f"{policy}+{fault}"
        with work_folder(self.folder, name) as work:
            stage = set_stage(
                work, library, self.config, self.scenario, self.dialect,
                policy=policy, factor=self.factor, interval=INTERVAL,
                keep_serving=fault is not None,
            )  # fmt: skip
            with stage.machine, Company(stage, self.config, self.dialect, self.say) as company:
                self.say(
                    "watch", f"voltana top --from {stage.agents} --token-file {stage.token_file}"
                )
                run = Run(
                    stage=stage, company=company, trace=self.scenario.trace,
                    dialect=self.dialect, factor=self.factor, fault=fault, say=self.say,
                )  # fmt: skip
                before = waited_s(stage.logs)
                replayed, start_s = run.serve(horizon_s)
                waited = most_waited_s(before, waited_s(stage.logs))
                agents = company.agents()
            return self._evidence(stage, run, replayed, start_s, agents, waited)

    def _evidence(  # noqa: PLR0917  (one caller)
        self,
        stage: Stage,
        run: Run,
        replayed: Replayed,
        start_s: float,
        agents: list[dict[str, Any]],
        longest_s: float,
    ) -> Evidence:
        readings = read_log(stage.readings)
        rows, lateness = read_records(
            stage.records, list(stage.devices), start_s, start_s + replayed.end_s
        )
        hardware, engine = self.scenario.cluster.hardware, self.scenario.cluster.engine
        settle_s = hardware.clock_settle_s if engine.settle_s is None else engine.settle_s
        return Evidence(
            replayed=replayed,
            readings=readings,
            rows=rows,
            lateness=dataclasses.replace(
                lateness, waited_share=longest_s / (readings[-1].at_s - readings[0].at_s)
            ),
            set_calls=run.set_calls,
            agents=agents,
            start_s=start_s / self.factor,
            factor=self.factor,
            devices=stage.devices,
            fastest_mhz=hardware.clocks_mhz[-1],
            driver_s=hardware.clock_call_s + settle_s,
        )


def refuse_slow(lateness: Lateness, factor: float) -> None:
    """Refuse to give figures of a machine that did not keep up.

    Raises:
        TooSlowError: Naming a factor to try.
    """
    if lateness.too_slow:
        raise TooSlowError(
            f"this machine is too slow for {factor:g} seconds a second: {lateness.share:.1%} of "
            f"{lateness.happened} events of the virtual engines were over 5 ms late, where 1 % are "
            f"allowed, and router or an agent waited {lateness.waited_share:.0%} of the time for a "
            f"processor, where {WAITED_SHARE:.0%} is. Figures would be those of this machine, and "
            "not of the cluster. "
            f"Try --factor {lateness.factor_to_try(factor):g}."
        )
