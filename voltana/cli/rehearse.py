"""`voltana rehearse`: production's own processes against engines that behave like the plant."""

import signal
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from voltana.cli import scenario_flags as flags
from voltana.cli.terminal import STDOUT, configure_logs, prepare_outputs, table_console, write_text
from voltana.errors import MissingExtraError

if TYPE_CHECKING:
    from voltana.rehearsal.rehearse import Rehearsal

_CLUSTER = typer.Argument(metavar="CLUSTER.toml", help="The configuration of the cluster.")
_POLICY = typer.Option(
    "--policy",
    metavar="P",
    help="Policy, as for simulate; repeat it for several (static-max, and that of the file).",
)
_RATE_RPS, _DURATION_S = 10.0, 30.0
_RATE, _DURATION = flags.replayed_rate(_RATE_RPS), flags.replayed_duration(_DURATION_S)
_FACTOR = typer.Option(
    "--factor", metavar="X", help="Seconds of the rehearsal in one of the wall's."
)
_FAULT = typer.Option(
    "--fault",
    metavar="K@S",
    help="Rehearse each policy once more, with an agent, daemon, router, engine or gpu that fails "
    "after S seconds; repeat it for several.",
)
_ENGINE = typer.Option("--engine", metavar="E", help="Whose protocol is spoken.")
_OUT = typer.Option(
    "--out", metavar="DIR", help="Keep report.html, results.json, logs and records there."
)
_JSON = flags.as_json("the results")


def rehearse(
    cluster: Annotated[Path, _CLUSTER],
    *,
    policy: Annotated[list[str] | None, _POLICY] = None,
    workload: Annotated[str | None, flags.WORKLOAD] = None,
    rate: Annotated[float | None, _RATE] = None,
    duration: Annotated[float | None, _DURATION] = None,
    trace: Annotated[Path | None, flags.TRACE] = None,
    trace_format: Annotated[str | None, flags.TRACE_FORMAT] = None,
    window_start: Annotated[float | None, flags.WINDOW_START] = None,
    seed: Annotated[int | None, flags.SEED] = None,
    factor: Annotated[float, _FACTOR] = 0.25,
    fault: Annotated[list[str] | None, _FAULT] = None,
    engine: Annotated[str, _ENGINE] = "sglang",
    out: Annotated[Path | None, _OUT] = None,
    json: Annotated[str | None, _JSON] = None,
    log_level: Annotated[str, flags.LOG] = "warning",
) -> None:
    """Rehearse a cluster: agents, daemon, router and launch, on boards that are not there.

    Prints what was measured from outside beside what the simulator says of the same trace and seed.
    Needs a C compiler, and nothing of GPUs, engines or models.

    \b
    The first one:      voltana rehearse cluster.toml --factor 0.25
    More load:          voltana rehearse cluster.toml --rate 30 --policy static-max,voltana
    A recorded trace:   voltana rehearse cluster.toml --trace requests.csv --trace-format azure
    """  # noqa: D301  (\b keeps typer from reflowing the examples)
    configure_logs(log_level)
    _end_cleanly()
    from voltana.evaluation.scenario import ARRIVALS
    from voltana.extras import require

    require("serving", "voltana rehearse")
    from voltana.rehearsal.faults import Fault
    from voltana.rehearsal.port import find_dialect
    from voltana.rehearsal.rehearse import Director, scenario_of
    from voltana.rehearsal.run import LEAD_IN_S
    from voltana.serving.launch.command import read_launch

    dialect = find_dialect(engine)
    config = read_launch(cluster, dialect.config)
    if trace is None:
        rate = _RATE_RPS if rate is None else rate
        duration = _DURATION_S if duration is None else duration
    load = {
        "seed": 0 if seed is None else seed,
        "workload": {"name": workload},
        "trace": {
            "file": flags.text(trace),
            "format": trace_format,
            "start_s": window_start,
        },
        ARRIVALS: {"rate_rps": rate, "duration_s": duration},
    }
    policies = flags.policy_names(policy) or ["static-max", config.policy.controller]
    scenario = scenario_of(config, dialect, load, list(dict.fromkeys(policies)))
    launch = config.launch
    assert launch is not None
    duration_s = float(scenario.trace.arrival_s[-1]) - LEAD_IN_S
    director = Director(
        config=config,
        scenario=scenario,
        dialect=dialect,
        factor=factor,
        folder=out,
        say=_say,
        faults=[Fault.parse(one, launch, duration_s) for one in dict.fromkeys(fault or ())],
    )
    prepare_outputs(out, json)
    _tell(director.run(), out, json)


def _end_cleanly() -> None:
    """Let a polite end take along all that was started; a second one must not cut that short."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

    def interrupt(_number: int, _frame: object) -> None:
        for number in numbers:
            signal.signal(number, signal.SIG_IGN)
        raise KeyboardInterrupt

    for number in numbers:
        if signal.getsignal(number) is not signal.SIG_IGN:  # nohup
            signal.signal(number, interrupt)


def _tell(made: "Rehearsal", out: Path | None, json: str | None) -> None:
    """Write and print what a rehearsal measured."""
    from voltana.rehearsal.report import print_report, to_json

    text = to_json(made)
    if out is not None:
        write_text(out / "results.json", text + "\n")
        _write_page(made, out / "report.html")
    if json == STDOUT:
        typer.echo(text)
        return
    if json is not None:
        write_text(Path(json), text + "\n")
    print_report(made, table_console())


def _write_page(rehearsal: "Rehearsal", path: Path) -> None:
    """Write the page; without its library say so, for the figures are there all the same."""
    from voltana.evaluation.report.page import render
    from voltana.rehearsal.page import page_of

    try:
        text = render(page_of(rehearsal))
    except MissingExtraError as error:
        typer.echo(f"voltana: no report: {error}", err=True)
        return
    write_text(path, text)
    typer.echo(f"Wrote {path}", err=True)


def _say(name: str, text: str) -> None:
    typer.echo(f"{name:<12} {text}", err=True)
