"""The report of a folder: of one run, or of a sweep."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from voltana.errors import ConfigError
from voltana.evaluation.report.checked import check_results, check_scenario, check_series, said
from voltana.evaluation.report.figures import percent, shown
from voltana.evaluation.report.labels import as_given, labelled, words
from voltana.evaluation.report.page import Page, render
from voltana.evaluation.report.run_figures import PATTERNS, run_figures
from voltana.evaluation.report.series import MOST_BYTES, SERIES, command_again, read_series
from voltana.evaluation.report.sweep_figures import sweep_figures, varied_fields
from voltana.evaluation.report.unfinished import (
    check_run,
    check_sweep,
    notes_of_run,
    notes_of_sweep,
)
from voltana.evaluation.units import J_PER_KWH
from voltana.users_file import load_json, read_text

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    Json = dict[str, Any]

RESULTS = "results.json"
SIMULATED = (
    "Everything here was simulated: no GPU was measured. docs/fidelity.md says how far the "
    "simulated boards agree with measurements."
)
MOST_ROWS = 2000
"""Rows of a sweep that its report lists; the Parquet has all."""

_SAVED = "energy_saved_vs_static_max"
_KEPT = 0.95
"""Attainment from which on a saving counts."""

_SWEPT_AGAIN = (
    "Give the command of the sweep again, which makes the file from the runs that are kept."
)

_UNFIT = (ArithmeticError, AttributeError, LookupError, TypeError, ValueError)
"""What figures that are none raise, wherever they are first used."""

_UNITS = (
    ("Energy of all GPUs (kWh)", "total_gpu_energy_kwh"),
    ("Energy of all GPUs (J)", "total_gpu_energy_j"),
    ("Mean power of all GPUs (W)", "avg_total_gpu_power_w"),
    ("Energy an output token, all GPUs (J)", "joules_per_output_token"),
    ("Energy an input token, prefill GPUs (J)", "prefill_joules_per_input_token"),
    ("Energy an output token, decode GPUs (J)", "decode_joules_per_output_token"),
    ("Energy a finished request, all GPUs (J)", "joules_per_successful_query"),
    ("Energy a finished request, prefill GPUs (J)", "prefill_joules_per_successful_query"),
    ("Energy a finished request, decode GPUs (J)", "decode_joules_per_successful_query"),
)
"""What the table of units says, and the name in results.json."""


def run_page(folder: Path) -> Page:
    """The report of a folder that `voltana simulate --out` wrote.

    Raises:
        ConfigError: If it did not, or another version did.
    """
    check_run(folder)
    series = read_series(folder)
    try:
        results: Json = load_json(read_text(folder / RESULTS, MOST_BYTES))
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise _damaged(folder, f"{str(folder / RESULTS)!r} cannot be read: {reason}") from None
    remedy = _again(folder)
    try:
        check_scenario(results["scenario"], repr(str(folder / RESULTS)), remedy)
        check_results(results["results"], repr(str(folder / RESULTS)), remedy)
        check_series(series, results["results"], repr(str(folder / SERIES)), remedy)
        return _page_of_run(results, series, notes_of_run(folder))
    except _UNFIT as error:
        if isinstance(error, ConfigError):
            raise
        what = f"{RESULTS} and {SERIES} in {str(folder)!r} do not hold what a run writes"
        raise _damaged(folder, f"{what}: {said(error)}") from None


def _damaged(folder: Path, what: str) -> ConfigError:
    return ConfigError(f"{what}. {_again(folder)}")


def _again(folder: Path) -> str:
    return f"Run it again: {command_again(folder)}."


def _page_of_run(results: Json, series: Json, unfinished: Sequence[str]) -> Page:
    scenario, best = results["scenario"], _best(results["results"])
    cluster = scenario["cluster"]
    return Page(
        title=f"{cluster['model']} on {cluster['hardware']}: policies compared",
        lead=f"{_instances(cluster)} (TP {cluster['tensor_parallel']}), {_load(scenario)}, seed "
        f"{scenario['seed']}.",
        tiles=_tiles(best),
        figures=run_figures(results, series),
        tables=(_unit_table(series), *_cost_tables(series)),
        notes=(
            *unfinished,
            SIMULATED,
            f"Source of every energy: {series['policies'][0]['units']['source']}; hence "
            "power_valid is 0. Names are those of InferenceX's power metrics.",
            *_known(results.get("knowledge") or {}),
        ),
    )


def sweep_page(path: Path, per_kwh: Mapping[str, float]) -> Page:
    """The report of a sweep's results.

    Args:
        path: The Parquet, or the folder that it is in.
        per_kwh: Constant prices and intensities, by what they count.

    Raises:
        ConfigError: If it cannot be read.
    """
    from voltana.evaluation.sweep.fields import scenario_fields  # noqa: PLC0415  (with Parquet)
    from voltana.evaluation.sweep.knowledge import caveats  # noqa: PLC0415
    from voltana.evaluation.sweep.store import RESULTS as PARQUET  # noqa: PLC0415
    from voltana.evaluation.sweep.table import read_results  # noqa: PLC0415

    file = path / PARQUET if path.is_dir() else path
    check_sweep(file)
    rows, knowledge = read_results(file)
    if not rows:
        raise ConfigError(f"{str(file)!r} has no rows: no scenario has ended. Finish the sweep.")
    try:
        check_results(rows, repr(str(file)), _SWEPT_AGAIN)
        notes = (
            *notes_of_sweep(file, {row["run"] for row in rows}),
            SIMULATED,
            *caveats(knowledge),
            f"Read from {file.name}, which holds every figure of every scenario.",
        )
        return _page_of_sweep(rows, scenario_fields(), per_kwh, notes)
    except _UNFIT as error:
        if isinstance(error, ConfigError):
            raise
        what = f"{str(file)!r} does not hold what a sweep writes: {said(error)}"
        raise ConfigError(f"{what}. {_SWEPT_AGAIN}") from None


def page_bytes(page: Page, what: Path) -> bytes:
    """A page as a file.

    Args:
        page: Of a run or a sweep.
        what: Where it was read, for errors.

    Raises:
        ConfigError: If a figure in it is none, or a name none that can be written.
    """
    try:
        return render(page).encode("utf-8")
    except _UNFIT as error:
        raise ConfigError(
            f"{str(what)!r} does not hold what voltana writes ({said(error)}): "
            "all figures must be finite and all names text. Run it again, or give the command of "
            "the sweep again, which makes its file from the runs that are kept."
        ) from None


def _page_of_sweep(
    rows: Sequence[Json],
    columns: Sequence[str],
    per_kwh: Mapping[str, float],
    notes: Sequence[str],
) -> Page:
    varied = varied_fields(rows, columns)
    runs = len({row["run"] for row in rows})
    return Page(
        title=f"Sweep over {', '.join(map(words, varied)) or 'seeds'}",
        lead=f"{runs} scenarios, {len(rows)} rows; policies: "
        f"{', '.join(dict.fromkeys(row['policy'] for row in rows))}.",
        tiles=_tiles(_best(rows)),
        figures=sweep_figures(rows, columns),
        tables=(_row_table(rows, varied, per_kwh),),
        notes=notes,
    )


def _best(results: Sequence[Json]) -> Json:
    """What saved most among what kept its targets; what kept most if none did."""
    kept = [r for r in results if _keeps(r) and r[_SAVED] is not None]
    if not kept:
        return max(results, key=_worse_kept)
    return max(kept, key=lambda result: float(result[_SAVED]))


def _keeps(result: Json) -> bool:
    return _worse_kept(result) >= _KEPT


def _worse_kept(result: Json) -> float:
    """The worse attainment of TTFT and mean ITL; that of nothing is whole."""
    kept = (result["ttft_attainment"], result["itl_attainment"])
    return min(1.0 if share is None else float(share) for share in kept)


def _tiles(best: Json) -> list[tuple[str, str, str]]:
    kept = f"TTFT {percent(best['ttft_attainment'])}, ITL {percent(best['itl_attainment'])} kept"
    found = f"Most saved with {100 * _KEPT:g} % kept"
    if not _keeps(best):
        found = f"Nothing kept {100 * _KEPT:g} %: saved by what kept most"
    return [
        (found, percent(best[_SAVED]), best["policy"]),
        ("Energy then", f"{shown(best['energy_j'] / J_PER_KWH)} kWh", kept),
        ("An output token", f"{shown(best['energy_per_output_token_j'], 3)} J", "all boards"),
        ("A request", f"{shown(best['energy_per_request_j'], 3)} J", "all boards"),
    ]


def _instances(cluster: Json) -> str:
    """How many there are of each role that there is."""
    counts = {role: cluster.get(role) or 0 for role in PATTERNS}
    said = [f"{count} {role}" for role, count in counts.items() if count]
    return f"{' and '.join(said)} instances"


def _load(scenario: Json) -> str:
    workload, trace = scenario.get("workload"), scenario.get("trace")
    if workload:
        return (
            f"{workload['name']} at {workload['rate_rps']:g} requests/s ({workload['arrival']}) "
            f"for {workload['duration_s']:g} s"
        )
    return f"the trace {str(trace['file']).rpartition('/')[2]}" if trace else "a load"


def _unit_table(series: Json) -> tuple[str, list[str], list[list[str]]]:
    policies = series["policies"]
    rows = [
        [label, *(shown(policy["units"][name]) for policy in policies), name]
        for label, name in _UNITS
    ]
    return "Units", ["figure", *(p["policy"] for p in policies), "name in results.json"], rows


def _cost_tables(series: Json) -> list[tuple[str, list[str], list[list[str]]]]:
    names = list(series["tariffs"])
    if not names:
        return []
    rows = [
        [policy["policy"], *(shown(policy["spent"][name]) for name in names)]
        for policy in series["policies"]
    ]
    headers = [f"{name} (at {series['tariffs'][name]} per kWh)" for name in names]
    return [("What it comes to", ["policy", *headers], rows)]


def _row_table(
    rows: Sequence[Json], varied: Sequence[str], per_kwh: Mapping[str, float]
) -> tuple[str, list[str], list[list[str]]]:
    headers = [
        "policy",
        *map(labelled, (*varied, "seed")),
        "energy (kJ)",
        "energy saved",
        "TTFT within SLO",
        "mean ITL within SLO",
        "energy an output token (J)",
    ]
    cells = [
        [
            row["policy"],
            *(as_given(row[name]) for name in (*varied, "seed")),
            shown(row["energy_j"] / 1e3),
            percent(row["energy_saved_vs_static_max"]),
            percent(row["ttft_attainment"]),
            percent(row["itl_attainment"]),
            shown(row["energy_per_output_token_j"], 3),
            *(shown(row["energy_j"] / J_PER_KWH * figure) for figure in per_kwh.values()),
        ]
        for row in rows[:MOST_ROWS]
    ]
    return "Every scenario", [*headers, *per_kwh], cells


def _known(knowledge: Json) -> list[str]:
    return [f"Of this board {word}: {'; '.join(said)}." for word, said in knowledge.items() if said]
