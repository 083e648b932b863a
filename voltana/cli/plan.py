"""`voltana plan`: which instances, how many boards each, and which policy serve a workload best."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from voltana.cli import scenario_flags as flags
from voltana.cli.sweep import (
    JSON,
    RAY,
    WORKERS,
    make_workers,
    sweep_bar,
    telling_what_is_kept,
)
from voltana.cli.terminal import STDOUT, configure_logs, prepare_outputs, write_json
from voltana.errors import ConfigError, invalid

if TYPE_CHECKING:
    from voltana.evaluation.provision import Objective, Option, Provision

NOTHING_KEEPS = 1
_SHOWN = 12
_HEADERS = ("instances", "policy", "boards", "J/request", "W", "TTFT kept", "ITL kept", "ok")

_BOARDS = typer.Option("--boards", metavar="N", help="Boards that there are.")
_TP = typer.Option(
    "--tp",
    "--tensor-parallel",
    metavar="N",
    help="Boards of an instance to try; several: 1,2,4, or repeat it (the model's default).",
)
_LEAST = typer.Option(
    "--least", metavar="WHAT", help="What is to be least: energy (a request), or boards."
)
_POLICY = typer.Option(
    "--policy", metavar="P", help="Policies to try; repeat it or use commas (voltana)."
)
_MIXTURES = typer.Option(
    "--mixtures",
    help="Try pairs beside colocated instances too; no single router of ours serves both.",
)
_RATE = typer.Option("--rate", metavar="R", help="Mean requests/s (60).")
_DURATION = typer.Option("--duration", metavar="S", help="Seconds of arrivals (120).")
_OUT = typer.Option("--out", metavar="DIR", help="Where simulations are kept.")


def plan(
    scenario: Annotated[Path | None, flags.SCENARIO] = None,
    *,
    boards: Annotated[int, _BOARDS] = 8,
    tensor_parallel: Annotated[list[str] | None, _TP] = None,
    least: Annotated[str, _LEAST] = "energy",
    policy: Annotated[list[str] | None, _POLICY] = None,
    mixtures: Annotated[bool, _MIXTURES] = False,
    workload: Annotated[str | None, flags.WORKLOAD] = None,
    rate: Annotated[float | None, _RATE] = None,
    duration: Annotated[float | None, _DURATION] = None,
    trace: Annotated[Path | None, flags.TRACE] = None,
    hardware: Annotated[str | None, flags.HARDWARE] = None,
    model: Annotated[str | None, flags.MODEL] = None,
    slo_ttft_ms: Annotated[float | None, flags.TTFT] = None,
    slo_itl_ms: Annotated[float | None, flags.ITL] = None,
    seed: Annotated[int | None, flags.SEED] = None,
    workers: Annotated[int | None, WORKERS] = None,
    ray: Annotated[str | None, RAY] = None,
    out: Annotated[Path, _OUT] = Path("out/plan"),
    json: Annotated[str | None, JSON] = None,
    log_level: Annotated[str, flags.LOG] = "warning",
) -> None:
    """Find the instances of each role, boards of each, and policy for a workload.

    Simulates every layout of at most --boards boards, pairs of prefill and decode instances or
    colocated ones, with the same requests, and names the one that keeps both SLO targets with the
    least energy a request, or on the fewest boards. Both kinds beside each other are tried with
    --mixtures alone: each request then goes where fewer are in flight on each instance. What has
    been simulated is kept in --out. Exit code 1 where nothing keeps the targets.

    \b
    Least energy:      voltana plan --boards 6 --rate 40
    Fewest boards:     voltana plan --boards 16 --least boards --rate 80
    TP as well:        voltana plan --model qwen3-32b --hardware h100-sxm --boards 8 --tp 1,2,4
    Under policies:    voltana plan --policy static-max,voltana
    Pairs and both:    voltana plan --boards 4 --rate 30 --mixtures
    """  # noqa: D301  (\b keeps typer from reflowing the examples)
    configure_logs(log_level)
    from voltana.config import parse_scenario
    from voltana.evaluation.provision import Objective, provision
    from voltana.evaluation.scenario import ARRIVALS, overlay, read_tables
    from voltana.plant.model import load_model

    if least not in list(Objective):
        raise invalid("--least", least, "energy or boards", "Give --least energy.")
    objective = Objective(least)
    base = overlay(
        {} if scenario is None else read_tables(scenario),
        {
            "policies": flags.policy_names(policy) or ["voltana"],
            "seed": seed,
            "cluster": {"hardware": hardware, "model": model},
            "slo": {"ttft_ms": slo_ttft_ms, "itl_ms": slo_itl_ms},
            "workload": {"name": workload},
            "trace": {"file": None if trace is None else str(trace)},
            ARRIVALS: {"rate_rps": rate, "duration_s": duration},
        },
    )
    served = parse_scenario(base).cluster.model
    tried = _counts(tensor_parallel) or [load_model(served).default_tensor_parallel]
    running = make_workers(workers, ray, log_level)
    prepare_outputs(out, json)
    with telling_what_is_kept(out), sweep_bar() as progress:
        answer = provision(
            base,
            most_boards=boards,
            tensor_parallels=tried,
            objective=objective,
            folder=out,
            workers=running,
            progress=progress,
            mixtures=mixtures,
        )
    if json is not None:
        write_json(_figures(answer, objective), json)
    if json != STDOUT:
        _print(answer, objective)
    if answer.best is None:
        raise typer.Exit(NOTHING_KEEPS)


def _counts(given: list[str] | None) -> list[int]:
    counts = []
    for text in [part.strip() for each in given or () for part in each.split(",")]:
        if not (text.isascii() and text.isdecimal() and 1 <= int(text) <= 1024):
            raise invalid("--tp", text, "a whole number from 1 to 1024", "Several: 1,2,4.")
        counts.append(int(text))
    return counts


def _figures(answer: "Provision", objective: "Objective") -> dict[str, object]:
    return {
        "least": objective.value,
        "best": None if answer.best is None else asdict(answer.best),
        "options": [asdict(option) for option in answer.options],
        "left_out": {str(tp): why for tp, why in answer.left_out.items()},
        "pairs_only": dict(answer.pairs_only),
        "failures": list(answer.failures),
    }


def _print(answer: "Provision", objective: "Objective") -> None:
    from rich.console import Console

    from voltana.evaluation.fitting_table import print_fitting

    if not answer.options:
        raise ConfigError(f"nothing could be simulated: {'; '.join(answer.failures[:3])}")
    typer.echo(f"least {objective.value}: the first row")
    shown = [_cells(option) for option in answer.options[:_SHOWN]]
    print_fitting(_HEADERS, shown, Console(), texts=2)
    if len(answer.options) > _SHOWN:
        typer.echo(f"and {len(answer.options) - _SHOWN} more, in --json")
    if answer.best is not None and answer.best.layout.colocated and answer.best.layout.prefill:
        typer.echo(
            "A mixture: pairs and unified servers need a router each, and what splits the requests "
            "between them. Without --mixtures only what one router serves is tried."
        )
    for tp, why in answer.left_out.items():
        typer.echo(f"TP {tp} was left out: {why}")
    for name, why in answer.pairs_only.items():
        typer.echo(f"{name} was tried on pairs alone: {why}")
    for failure in answer.failures:
        typer.echo(f"not simulated: {failure}")
    if answer.best is None:
        typer.echo(
            "Nothing keeps both SLO targets. Give more --boards, other --policy, or looser SLOs; "
            "the first row comes nearest."
        )


def _cells(option: "Option") -> tuple[str, ...]:
    return (
        str(option.layout),
        option.policy,
        str(option.layout.boards),
        f"{option.energy_per_request_j:.0f}",
        f"{option.mean_power_w:.0f}",
        f"{100 * option.ttft_attainment:.1f} %",
        f"{100 * option.itl_attainment:.1f} %",
        "yes" if option.keeps else "no",
    )
