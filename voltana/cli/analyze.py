"""`voltana analyze`: is the decode loop of a policy stable, and by how much."""

import math
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from voltana.cli import scenario_flags as flags
from voltana.cli.terminal import (
    STDOUT,
    configure_logs,
    prepare_outputs,
    progress_bars,
    table_console,
    write_text,
)
from voltana.errors import StabilityError, invalid
from voltana.extras import require
from voltana.users_file import read_number

if TYPE_CHECKING:
    from voltana.analysis.design import PiDesign
    from voltana.analysis.margins import Requirement
    from voltana.controllers.pid import PidGains
    from voltana.evaluation.scenario import Scenario

POLICIES = ("pid", "window", "voltana-v0.1", "voltana", "static-max")
DESIGN_SHARE = 0.85
"""Of the fastest clock, around which gains are designed if none is given."""

DURATION_S = 300.0
"""Long enough for the batch to settle."""

_POLICY = typer.Option(
    "--policy",
    metavar="P",
    help="Policy name, or MODULE:FACTORY of your own; repeat it (or use commas) for several "
    f"({', '.join(POLICIES)}).",
)
_DURATION = typer.Option(
    "--duration", metavar="S", help="Seconds of arrivals; the second half is analysed (300)."
)
_MODULUS = typer.Option(
    "--modulus-margin", metavar="X", help="Least distance from -1, that is 1/Ms."
)
_PHASE = typer.Option("--phase-margin", metavar="DEG", help="Least phase margin in degrees.")
_GAIN = typer.Option("--gain-margin", metavar="X", help="Least gain margin, a factor.")
_DELAY = typer.Option("--delay-margin-ms", metavar="X", help="Least extra delay in ms.")
_DESIGN = typer.Option("--design", help="Design PI gains that keep these margins.")
_GAINS = typer.Option(
    "--gains",
    metavar="P,I[,D]",
    help="Check PID gains in MHz, MHz/s and MHz s; refused (exit code 2) if they fall short.",
)
_CLOCK = typer.Option(
    "--clock",
    metavar="MHZ",
    help="Clock around which --design and --gains work (85 % of the fastest).",
)
_OUT = typer.Option("--out", metavar="DIR", help="Write plots, analysis.json and scenario.toml.")
_JSON = flags.as_json("the analysis")


def analyze(
    scenario: Annotated[Path | None, flags.SCENARIO] = None,
    *,
    policy: Annotated[list[str] | None, _POLICY] = None,
    rate: Annotated[float | None, flags.RATE] = None,
    duration: Annotated[float | None, _DURATION] = None,
    hardware: Annotated[str | None, flags.HARDWARE] = None,
    model: Annotated[str | None, flags.MODEL] = None,
    decode: Annotated[int | None, flags.DECODE] = None,
    slo_itl_ms: Annotated[float | None, flags.ITL] = None,
    seed: Annotated[int | None, flags.SEED] = None,
    modulus_margin: Annotated[float, _MODULUS] = 0.5,
    phase_margin: Annotated[float, _PHASE] = 30.0,
    gain_margin: Annotated[float, _GAIN] = 2.0,
    delay_margin_ms: Annotated[float, _DELAY] = 0.0,
    design: Annotated[bool, _DESIGN] = False,
    gains: Annotated[str | None, _GAINS] = None,
    clock: Annotated[float | None, _CLOCK] = None,
    out: Annotated[Path | None, _OUT] = None,
    json: Annotated[str | None, _JSON] = None,
    log_level: Annotated[str, flags.LOG] = "warning",
) -> None:
    """Tell whether the decode loop of a policy is stable, and by how much.

    Runs each policy, linearises cluster and controller where they settle, and prints the margins:
    how much gain, phase and delay the loop can take. docs/analysis.md explains them, and why
    prefill loops, which have no equilibrium, are not analysed.

    \b
    The usual policies:  voltana analyze --out out/analysis
    Your own policy:     voltana analyze --policy mine:make
    Another cluster:     voltana analyze --hardware h100-sxm --model qwen3-32b --rate 20
    Design a PI loop:    voltana analyze --policy pid --design --modulus-margin 0.7
    Check PID gains:     voltana analyze --policy pid --gains 300,600
    For a script:        voltana analyze --json - | jq '.policies[].margins'
    """  # noqa: D301  (\b keeps typer from reflowing the examples)
    configure_logs(log_level)
    require("analysis", "voltana analyze")
    from voltana.analysis.margins import Requirement
    from voltana.evaluation.scenario import ARRIVALS, load_scenario

    if scenario is None and duration is None:
        duration = DURATION_S
    names = flags.policy_names(policy)
    resolved = load_scenario(
        scenario,
        {
            "policies": names or (list(POLICIES) if scenario is None else None),
            "seed": seed,
            "cluster": {"hardware": hardware, "model": model, "decode": decode},
            "slo": {"itl_ms": slo_itl_ms},
            ARRIVALS: {"rate_rps": rate, "duration_s": duration},
        },
    )
    if not 0 <= delay_margin_ms < math.inf:
        raise invalid("delay_margin_ms", delay_margin_ms, "0 ms or more", "0 asks nothing.")
    requirement = Requirement(
        modulus_margin=modulus_margin,
        phase_margin_deg=phase_margin,
        gain_margin=gain_margin,
        delay_margin_s=delay_margin_ms / 1e3,
    )
    wanted = None if gains is None else _parse_gains(gains)
    _check_design_options(design=design, gains=gains, clock_mhz=clock)
    clock_mhz = _design_clock_mhz(resolved, clock)
    prepare_outputs(out, json)
    _run(
        resolved, requirement, gains=wanted, design=design, clock_mhz=clock_mhz, out=out, json=json
    )


def _run(
    scenario: "Scenario",
    requirement: "Requirement",
    *,
    gains: "PidGains | None",
    design: bool,
    clock_mhz: float,
    out: Path | None,
    json: str | None,
) -> None:
    from voltana.analysis.agreement import MarginWarning
    from voltana.analysis.analysis_report import print_design, print_table, to_json
    from voltana.analysis.policy_analysis import analyse_policy

    with warnings.catch_warnings(), progress_bars(len(scenario.trace), shown=True) as progress:
        # Nothing here hands out a system of which one could ask control.margin.
        warnings.simplefilter("ignore", MarginWarning)
        analyses = [analyse_policy(scenario, name, progress=progress) for name in scenario.policies]
    made, refused, point = None, None, None
    if design or gains is not None:
        try:
            made, point = _design(scenario, requirement, gains, clock_mhz)
        except StabilityError as error:
            refused = error  # after what was found out about the policies
    text = to_json(scenario, analyses, requirement, made)
    # Files first: whoever reads standard output may go away.
    if json is not None and json != STDOUT:
        write_text(Path(json), text + "\n")
    if out is not None:
        from voltana.analysis.plots import write_plots
        from voltana.evaluation.scenario import to_toml

        write_text(out / "scenario.toml", to_toml(scenario.file))
        write_text(out / "analysis.json", text + "\n")
        images = write_plots(analyses, out, requirement)
        typer.echo(f"Wrote {len(images)} plots, analysis.json and scenario.toml to {out}", err=True)
    if json == STDOUT:
        typer.echo(text)
    else:
        console = table_console()
        print_table(analyses, requirement, console)
        if made is not None and point is not None:
            print_design(made, *point, console)
    if refused is not None:
        raise refused


def _design(
    scenario: "Scenario",
    requirement: "Requirement",
    gains: "PidGains | None",
    clock_mhz: float,
) -> "tuple[PiDesign, tuple[float, float]]":
    """The gains, given or designed, with their margins and the point that they are for."""
    from voltana.analysis.actuation import Actuation
    from voltana.analysis.decode_model import linearise_settled
    from voltana.analysis.design import PiDesign, check_pid, design_pi
    from voltana.analysis.request_mix import RequestMix

    cluster, trace = scenario.cluster, scenario.trace
    mix = RequestMix.of(trace)
    rate_rps = len(trace) / float(trace.arrival_s[-1]) / cluster.decode
    model = linearise_settled(cluster, scenario.plant, mix, clock_mhz=clock_mhz, rate_rps=rate_rps)
    system, actuation, target_s = model.system, Actuation.of(cluster), model.point.latency_s
    where = (clock_mhz, target_s)
    if gains is None:
        return design_pi(system, actuation, target_s=target_s, requirement=requirement), where
    margins = check_pid(gains, system, actuation, target_s=target_s, requirement=requirement)
    return PiDesign(gains=gains, margins=margins), where


def _design_clock_mhz(scenario: "Scenario", asked_mhz: float | None) -> float:
    """The supported clock around which a design is made; checked before anything is run."""
    table_mhz = scenario.cluster.hardware.clocks_mhz
    wanted_mhz = DESIGN_SHARE * table_mhz[-1] if asked_mhz is None else asked_mhz
    if not table_mhz[0] <= wanted_mhz <= table_mhz[-1]:
        raise invalid(
            "--clock", wanted_mhz, f"{table_mhz[0]:g}-{table_mhz[-1]:g} MHz", "Name one of them."
        )
    return min(table_mhz, key=lambda mhz: abs(mhz - wanted_mhz))


def _check_design_options(*, design: bool, gains: str | None, clock_mhz: float | None) -> None:
    """Refuse options that would have no effect."""
    if design and gains is not None:
        raise invalid(
            "--gains", gains, "given without --design", "Either check these, or design others."
        )
    if clock_mhz is not None and not design and gains is None:
        raise invalid(
            "--clock",
            clock_mhz,
            "given with --design or --gains",
            "Policies are analysed where they settle, whatever it is.",
        )


def _parse_gains(text: str) -> "PidGains":
    from voltana.controllers.pid import PidGains

    try:
        values = [read_number(part) for part in text.split(",")]
    except ValueError:
        values = []
    if not 2 <= len(values) <= 3:
        raise invalid("--gains", text, "two or three numbers, P,I or P,I,D", "Such as 300,600.")
    names = ("proportional_mhz", "integral_mhz_per_s", "derivative_mhz_s")
    return PidGains(**dict(zip(names, values, strict=False)))
