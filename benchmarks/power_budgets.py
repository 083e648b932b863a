"""Power budgets over two clusters, divided evenly and by marginal worth, on the same traces.

    python -m benchmarks.power_budgets --seeds 3 --out out/power-budgets
    python -m benchmarks.power_budgets --seeds 3 --figure docs/images/power-budgets.png

Budgets are shares of the boards' power limits: constant ones, and one that falls and rises again.
Prints, of the mean of the seeds, what was drawn of the budget, how it was kept in each second, and
attainments with the difference of the seeds' pairs (worth less even) and its 95 % interval. Runs as
a sweep: resumable, a scenario a process.
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path

import numpy as np

from benchmarks.kept_runs import rows_of
from benchmarks.paired import interval_half
from voltana.config import parse_scenario
from voltana.evaluation.scenario import overlay, resolve
from voltana.evaluation.sweep import make_plan
from voltana.evaluation.sweep.fields import as_tables
from voltana.plant.hardware import load_hardware
from voltana.plant.simulation import Simulation

POLICIES = ("static-max", "voltana")
SHARES = ("even", "worth")
CONSTANT = (0.6, 0.5)
FALLING = ((0.0, 0.7), (10.0, 0.5), (20.0, 0.7))
DURATION_S = 30.0
KEPT = ("ttft_attainment", "itl_attainment")

CLUSTERS = {
    "llama-3.1-8b, A100": {
        "cluster.hardware": "a100-sxm4-80gb",
        "cluster.model": "llama-3.1-8b",
        "workload.rate_rps": 50.0,
    },
    "qwen3-32b, H100": {
        "cluster.hardware": "h100-sxm",
        "cluster.model": "qwen3-32b",
        "cluster.tensor_parallel": 2,
        "workload.rate_rps": 40.0,
    },
}
"""2 prefill and 2 decode instances each, under the default workload and thresholds."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("out/power-budgets"))
    parser.add_argument("--figure", type=Path, help="draw it there (needs matplotlib)")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    rows = [row for name in CLUSTERS for row in _rows(name, options.out)]
    grid = {"seed": list(range(options.seeds)), "power_shares": list(SHARES)}
    plan = make_plan({"policies": list(POLICIES)}, grid, rows)
    table = gathered(rows_of(plan, options.out, options.processes))
    print_table(table)
    if options.figure is not None:
        draw(table, options.out, options.figure)


def _rows(name: str, folder: Path) -> list[dict]:
    """The scenarios of a cluster: a constant budget each, and one that falls and rises."""
    base = {**CLUSTERS[name], "workload.duration_s": DURATION_S}
    limit_w = limit_of(base)
    file = folder / f"{base['cluster.model']}.toml"
    file.write_text(
        "\n".join(f"[[step]]\nat_s = {at_s}\nwatts = {share * limit_w}" for at_s, share in FALLING)
    )
    constant = [{**base, "power_budget_w": share * limit_w} for share in CONSTANT]
    return [*constant, {**base, "power_budget_file": str(file)}]


def limit_of(base) -> float:
    """Power limits of all boards of a cluster of four instances together."""
    boards = 4 * base.get("cluster.tensor_parallel", 1)
    return load_hardware(base["cluster.hardware"]).tdp_w * boards


def gathered(rows) -> dict:
    """Rows by cluster, budget and policy, and by shares; in the order of the seeds."""
    made: dict = {}
    for row in sorted(rows, key=lambda row: row["seed"]):
        name = next(n for n, c in CLUSTERS.items() if c["cluster.model"] == row["cluster.model"])
        constant = row.get("power_budget_w")
        budget = "falling" if constant is None else f"{constant / limit_of(CLUSTERS[name]):.2f}"
        key = (name, budget, row["policy"])
        made.setdefault(key, {}).setdefault(row["power_shares"], []).append(row)
    return made


def print_table(table) -> None:
    print(
        "| cluster | budget | policy | shares | energy kJ | used | seconds above | worst excess "
        "| breaches | TTFT kept | ITL kept |"
    )
    print("|---|---|---|---|---:|---:|---:|---:|---:|---:|---:|")
    for (name, budget, policy), by_shares in table.items():
        for shares in SHARES:
            runs = by_shares.get(shares, [])
            if not runs:
                continue
            kept = [kept_of(run) for run in runs]
            cells = (
                name,
                budget,
                policy,
                shares,
                f"{np.mean([run['energy_j'] for run in runs]) / 1e3:.1f}",
                f"{100 * np.mean([one['used_share'] for one in kept]):.0f} %",
                f"{100 * np.mean([one['over_share'] for one in kept]):.1f} %",
                f"{max(one['worst_excess_w'] for one in kept):.0f} W",
                f"{np.mean([one['breaches'] for one in kept]):.1f}",
                *(_attainment(by_shares, shares, column) for column in KEPT),
            )
            print(f"| {' | '.join(cells)} |", flush=True)


def kept_of(run) -> dict:
    """How a run kept its budget; a store may hold it as text."""
    kept = run["power_budget"]
    return json.loads(kept) if isinstance(kept, str) else kept


def _attainment(by_shares, shares: str, column: str) -> str:
    values = [run[column] for run in by_shares[shares]]
    said = f"{100 * statistics.fmean(values):.1f} %"
    if shares == "even" or len(by_shares.get("even", [])) != len(values):
        return said
    more = [100 * (w - e[column]) for w, e in zip(values, by_shares["even"], strict=True)]
    return f"{said} ({statistics.fmean(more):+.1f} ±{interval_half(more):.1f})"


def draw(table, folder: Path, path: Path) -> None:
    """Above, power under the budget that falls and rises; below, what is kept."""
    from voltana.evaluation.style import COLOURS, LIMIT, new_figure, style  # noqa: PLC0415

    colours = dict(zip(SHARES, (COLOURS[1], COLOURS[0]), strict=True))
    figure = new_figure(10.5, 6.6)
    panels = figure.subplots(2, len(CLUSTERS), squeeze=False)
    for column, name in enumerate(CLUSTERS):
        above, below = panels[:, column]
        for shares in SHARES:
            budget, power_w = _power_w(name, shares, folder)
            seconds = np.arange(len(power_w) + 1, dtype=float)
            label = f"voltana, {shares}"
            above.stairs(power_w, seconds, color=colours[shares], lw=1.6, label=label)
        allowed_w = budget.means_w(seconds)
        above.stairs(
            allowed_w, seconds, baseline=None, color=LIMIT, lw=1.4, ls="--", label="budget"
        )
        above.set(title=name, xlabel="simulated time (s)", ylabel="power of all boards (W)")
        above.set_ylim(bottom=0)
        above.legend(fontsize=8, loc="lower left")
        keys = [key for key in table if key[0] == name]
        for place, key in enumerate(keys):
            for shares, aside in zip(SHARES, (-0.12, 0.12), strict=True):
                least = [100 * min(run[c] for c in KEPT) for run in table[key].get(shares, [])]
                at, colour = place + aside, colours[shares]
                below.plot([at] * len(least), least, ".", color=colour, alpha=0.6)
                below.plot(at, np.mean(least), "_", ms=16, mew=2.2, color=colour, label=shares)
                if place == 0:
                    below.legend(fontsize=8, loc="lower right")
        below.set_xticks(range(len(keys)), [f"{b}\n{p}" for _, b, p in keys], fontsize=8)
        below.set(ylabel="threshold kept least (%)", xlabel="budget over limits, policy")
        for axes in (above, below):
            style(axes, "y")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)


def _power_w(name: str, shares: str, folder: Path):
    """The schedule, and what a cluster draws under it in each second; of the first seed."""
    fields = {**_rows(name, folder)[-1], "power_shares": shares, "policies": ["voltana"]}
    scenario = resolve(parse_scenario(overlay({}, as_tables(fields))))
    policy = scenario.configured(scenario.policies["voltana"])
    simulation = Simulation(
        scenario.cluster, policy, scenario.trace, seed=scenario.file.seed, plant=scenario.plant
    )
    simulation.run()
    return scenario.budget, simulation.record().power_w


if __name__ == "__main__":
    main()
