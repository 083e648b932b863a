"""`voltana simulate`: a cluster serves a load under several policies, and what each one cost."""

from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from voltana.cli import scenario_flags as flags
from voltana.cli import simulate_flags as own
from voltana.cli.terminal import (
    STDOUT,
    configure_logs,
    prepare_outputs,
    progress_bars,
    table_console,
    write_text,
)
from voltana.errors import MissingExtraError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from voltana.evaluation.compare import Comparison
    from voltana.evaluation.scenario import Scenario
    from voltana.evaluation.tariff import Tariff
    from voltana.evaluation.uncertainty import Uncertain


def simulate(
    scenario: Annotated[Path | None, flags.SCENARIO] = None,
    *,
    policy: Annotated[list[str] | None, own.POLICY] = None,
    workload: Annotated[str | None, flags.WORKLOAD] = None,
    rate: Annotated[float | None, own.RATE] = None,
    duration: Annotated[float | None, own.DURATION] = None,
    arrival: Annotated[str | None, own.ARRIVAL] = None,
    rates: Annotated[Path | None, own.RATES] = None,
    rates_start: Annotated[float | None, own.RATES_START] = None,
    cv: Annotated[float | None, own.CV] = None,
    trace: Annotated[Path | None, flags.TRACE] = None,
    trace_format: Annotated[str | None, flags.TRACE_FORMAT] = None,
    time_unit: Annotated[str | None, own.UNIT] = None,
    rate_scale: Annotated[float | None, own.SCALE] = None,
    window_start: Annotated[float | None, flags.WINDOW_START] = None,
    max_prompt_tokens: Annotated[int | None, own.MAX_PROMPT] = None,
    max_output_tokens: Annotated[int | None, own.MAX_OUTPUT] = None,
    hardware: Annotated[str | None, flags.HARDWARE] = None,
    model: Annotated[str | None, flags.MODEL] = None,
    tensor_parallel: Annotated[int | None, flags.TENSOR_PARALLEL] = None,
    prefill: Annotated[int | None, flags.PREFILL] = None,
    decode: Annotated[int | None, flags.DECODE] = None,
    colocated: Annotated[int | None, flags.COLOCATED] = None,
    binding: Annotated[str | None, flags.BINDING] = None,
    slo_ttft_ms: Annotated[float | None, flags.TTFT] = None,
    slo_itl_ms: Annotated[float | None, flags.ITL] = None,
    seed: Annotated[int | None, flags.SEED] = None,
    power_budget: Annotated[float | None, own.BUDGET] = None,
    budget_schedule: Annotated[Path | None, own.SCHEDULE] = None,
    power_shares: Annotated[str | None, own.SHARES] = None,
    levels: Annotated[str | None, own.LEVELS] = None,
    predictor: Annotated[str | None, own.PREDICTOR] = None,
    uncertainty: Annotated[bool, own.UNCERTAINTY] = False,
    price: Annotated[str | None, flags.PRICE] = None,
    currency: Annotated[str, flags.CURRENCY] = flags.DEFAULT_CURRENCY,
    carbon: Annotated[str | None, flags.CARBON] = None,
    out: Annotated[Path | None, own.OUT] = None,
    json: Annotated[str | None, own.JSON] = None,
    log_level: Annotated[str, flags.LOG] = "warning",
) -> None:
    """Compare policies on a simulated cluster that serves a load.

    Prints energy, SLO attainment and latencies. Defaults stand in parentheses.

    \b
    The demo:           voltana simulate --out out/demo
    Another cluster:    voltana simulate --hardware h100-sxm --model qwen3-32b --prefill 4
    Both phases in one: voltana simulate --colocated 4
    Bursts:             voltana simulate --arrival gamma --cv 3 --rate 40
    How sure:           voltana simulate --uncertainty
    What it costs:      voltana simulate --price 0.25 --carbon intensity.csv
    A recorded trace:   voltana simulate --trace requests.csv.gz --trace-format azure
    Your own policy:    voltana simulate --policy static-max --policy mine:make
    For a script:       voltana simulate --json - | jq '.results[].energy_j'
    Run it again:       voltana simulate out/demo/scenario.toml
    """  # noqa: D301  (\b keeps typer from reflowing the examples)
    configure_logs(log_level)
    from voltana.evaluation.comparison_report import to_json
    from voltana.evaluation.scenario import ARRIVALS, load_scenario
    from voltana.evaluation.uncertainty import uncertain

    resolved = load_scenario(
        scenario,
        {
            "policies": flags.policy_names(policy),
            "seed": seed,
            "levels": levels,
            "predictor": predictor,
            "power_budget_w": power_budget,
            "power_budget_file": flags.text(budget_schedule),
            "power_shares": power_shares,
            "cluster": {
                "hardware": hardware,
                "model": model,
                "tensor_parallel": tensor_parallel,
                "prefill": prefill,
                "decode": decode,
                "colocated": colocated,
            },
            "engine": {"binding": binding},
            "slo": {"ttft_ms": slo_ttft_ms, "itl_ms": slo_itl_ms},
            "workload": {
                "name": workload,
                "arrival": "rates" if arrival is None and rates is not None else arrival,
                "rates_file": flags.text(rates),
                "rates_start_s": rates_start,
                "cv": cv,
            },
            "trace": {
                "file": flags.text(trace),
                "format": trace_format,
                "time_unit": time_unit,
                "rate_scale": rate_scale,
                "start_s": window_start,
            },
            ARRIVALS: {
                "rate_rps": rate,
                "duration_s": duration,
                "max_prompt_tokens": max_prompt_tokens,
                "max_output_tokens": max_output_tokens,
            },
        },
    )
    tariffs = flags.tariffs(price, currency, carbon)
    last_s = float(resolved.trace.arrival_s.max(initial=0.0))
    for tariff in tariffs.values():
        tariff.check_begins(last_s)
    prepare_outputs(out, json)
    quiet = log_level in {"debug", "info"}
    with progress_bars(len(resolved.trace), shown=not quiet) as progress:
        comparison = _compared(resolved, out, progress)
        ranges = uncertain(comparison, progress) if uncertainty else None
    made = to_json(comparison, ranges, tariffs)
    if json is not None and json != STDOUT:
        write_text(Path(json), made + "\n")
    if out is not None:
        _keep(comparison, out, tariffs, made)
        _illustrate(comparison, out, ranges)
    _show(comparison, json, ranges, made)
    if json != STDOUT:
        _show_spent(comparison, tariffs)
    _show_early_ends(comparison, tariffs)


def _compared(
    scenario: "Scenario", out: Path | None, progress: "Callable[[str, float, int], None] | None"
) -> "Comparison":
    """Compare the policies; in `out`, what was found so far can be read meanwhile."""
    from voltana.evaluation.compare import compare
    from voltana.evaluation.partial import PARTIAL, PartialResults
    from voltana.whole_file import remove_torn

    if out is None:
        return compare(scenario, progress=progress)
    with closing(PartialResults(out / PARTIAL, scenario)) as partial:
        remove_torn(out)
        return compare(scenario, record_timelines=True, progress=progress, look=partial.look)


def _show_spent(comparison: "Comparison", tariffs: "Mapping[str, Tariff]") -> None:
    from voltana.evaluation.units import J_PER_KWH, spent
    from voltana.evaluation.wording import significant

    for run in comparison.runs if tariffs else ():
        said = ", ".join(
            f"{significant(spent(run.record, t))} {name}" for name, t in tariffs.items()
        )
        kwh = significant(run.record.energy_j() / J_PER_KWH)
        typer.echo(f"{run.result.policy}: {kwh} kWh, {said}")


def _show_early_ends(comparison: "Comparison", tariffs: "Mapping[str, Tariff]") -> None:
    """Say of prices whose file ends before the run that the last one was taken from then on."""
    end_s = max(run.record.end_s for run in comparison.runs)
    for name, tariff in tariffs.items():
        if tariff.ends_before(end_s):
            typer.echo(
                f"voltana: the last row of {tariff.source} ({name}) begins at "
                f"{tariff.from_s[-1]:g} s, and the run ends at {end_s:.6g} s: that row was taken "
                "to hold until then",
                err=True,
            )


def _show(
    comparison: "Comparison", json: str | None, ranges: "Uncertain | None", made: str
) -> None:
    from voltana.evaluation.comparison_report import print_table

    if json == STDOUT:
        typer.echo(made)
    else:
        print_table(comparison, table_console(), ranges)


def _keep(comparison: "Comparison", out: Path, tariffs: "Mapping[str, Tariff]", made: str) -> None:
    """Write all that `voltana report` reads: it outlives a disk that has no room for pictures."""
    from json import dumps

    from voltana.evaluation.report.series import SERIES, series_of
    from voltana.evaluation.scenario import to_toml

    write_text(out / "scenario.toml", to_toml(comparison.scenario.file))
    write_text(out / "results.json", made + "\n")
    write_text(out / SERIES, dumps(series_of(comparison, tariffs), allow_nan=False))


def _illustrate(comparison: "Comparison", out: Path, ranges: "Uncertain | None") -> None:
    """Write plots and the page that shows them, before a reader of the table may go away."""
    from voltana.evaluation.comparison_report import markdown_report

    images = _plots(comparison, out)
    write_text(out / "report.md", markdown_report(comparison, images, ranges))
    typer.echo(
        f"Wrote {len(images)} plots, report.md, results.json and scenario.toml to {out}", err=True
    )


def _plots(comparison: "Comparison", out: Path) -> list[Path]:
    """Draw the plots; without matplotlib say so, for the results are worth having all the same."""
    try:
        from voltana.evaluation.plots import write_plots
    except MissingExtraError as error:
        typer.echo(f"voltana: no plots: {error}", err=True)
        return []
    return write_plots(comparison, out)
