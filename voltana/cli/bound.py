"""`voltana bound`: the energy that no policy can go below, and how near policies come."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from voltana.cli import scenario_flags as flags
from voltana.cli.terminal import (
    STDOUT,
    configure_logs,
    prepare_outputs,
    progress_bars,
    write_text,
)
from voltana.errors import invalid

if TYPE_CHECKING:
    from voltana.evaluation.bound import BoundReport
    from voltana.evaluation.compare import Comparison

_JSON_NAME, _REPORT_NAME, _SCENARIO_NAME = "bound.json", "bound.md", "scenario.toml"

_POLICY = typer.Option(
    "--policy",
    metavar="P",
    help="Policy to set against the bound; repeat it (or use commas) for several (the scenario's).",
)
_DURATION = typer.Option("--duration", metavar="S", help="Seconds of arrivals (120).")
_MARGIN = typer.Option(
    "--margin",
    metavar="X",
    help="The bound holds for policies that attain at most this much less than static-max.",
)
_OUT = typer.Option(
    "--out", metavar="DIR", help=f"Write {_REPORT_NAME}, {_JSON_NAME} and {_SCENARIO_NAME} there."
)
_JSON = typer.Option("--json", metavar="FILE", help="Write JSON; '-' is standard output.")


def bound(
    scenario: Annotated[Path | None, flags.SCENARIO] = None,
    *,
    policy: Annotated[list[str] | None, _POLICY] = None,
    workload: Annotated[str | None, flags.WORKLOAD] = None,
    rate: Annotated[float | None, flags.RATE] = None,
    duration: Annotated[float | None, _DURATION] = None,
    hardware: Annotated[str | None, flags.HARDWARE] = None,
    model: Annotated[str | None, flags.MODEL] = None,
    tensor_parallel: Annotated[int | None, flags.TENSOR_PARALLEL] = None,
    prefill: Annotated[int | None, flags.PREFILL] = None,
    decode: Annotated[int | None, flags.DECODE] = None,
    colocated: Annotated[int | None, flags.COLOCATED] = None,
    slo_ttft_ms: Annotated[float | None, flags.TTFT] = None,
    slo_itl_ms: Annotated[float | None, flags.ITL] = None,
    seed: Annotated[int | None, flags.SEED] = None,
    margin: Annotated[float, _MARGIN] = 0.01,
    out: Annotated[Path | None, _OUT] = None,
    json: Annotated[str | None, _JSON] = None,
    log_level: Annotated[str, flags.LOG] = "warning",
) -> None:
    """Bound the energy that any policy needs to keep the SLOs of a scenario.

    Runs the scenario's policies, works out the bound for the same arrivals up to the same instant,
    and prints both with what the bound relaxes. It applies where static-max attains 99 %.

    \b
    The demo:       voltana bound
    One policy:     voltana bound --policy voltana --rate 30
    A scenario:     voltana bound out/demo/scenario.toml --out out/bound
    Colocated:      voltana bound --colocated 4 --rate 20
    For a script:   voltana bound --json - | jq .saving
    """  # noqa: D301  (\b keeps typer from reflowing the examples)
    configure_logs(log_level)
    if not 0 <= margin < 1:
        raise invalid("margin", margin, "at least 0 and below 1", "0.01 means one point.")
    from voltana.evaluation.bound import bound_comparison
    from voltana.evaluation.compare import compare
    from voltana.evaluation.scenario import ARRIVALS, load_scenario

    resolved = load_scenario(
        scenario,
        {
            "policies": flags.policy_names(policy),
            "seed": seed,
            "cluster": {
                "hardware": hardware,
                "model": model,
                "tensor_parallel": tensor_parallel,
                "prefill": prefill,
                "decode": decode,
                "colocated": colocated,
            },
            "slo": {"ttft_ms": slo_ttft_ms, "itl_ms": slo_itl_ms},
            "workload": {"name": workload},
            ARRIVALS: {"rate_rps": rate, "duration_s": duration},
        },
    )
    prepare_outputs(out, json)
    quiet = log_level in {"debug", "info"}
    with progress_bars(len(resolved.trace), shown=not quiet) as progress:
        comparison = compare(resolved, progress=progress)
    report = bound_comparison(comparison, margin)
    _write(report, comparison, out, json)
    _show(report, comparison, json)


def _show(report: "BoundReport", comparison: "Comparison", json: str | None) -> None:
    from voltana.evaluation.bound.bound_report import text

    if json == STDOUT:
        typer.echo(report.to_json())
    else:
        typer.echo(text(report, comparison))


def _write(
    report: "BoundReport", comparison: "Comparison", out: Path | None, json: str | None
) -> None:
    """Write the files asked for, before anything is printed to a reader that may go away."""
    if json is not None and json != STDOUT:
        write_text(Path(json), report.to_json() + "\n")
    if out is None:
        return
    from voltana.evaluation.bound.bound_report import text
    from voltana.evaluation.scenario import to_toml

    write_text(out / _SCENARIO_NAME, to_toml(comparison.scenario.file))
    write_text(out / _JSON_NAME, report.to_json() + "\n")
    write_text(out / _REPORT_NAME, text(report, comparison) + "\n")
    typer.echo(f"Wrote {_REPORT_NAME}, {_JSON_NAME} and {_SCENARIO_NAME} to {out}", err=True)
