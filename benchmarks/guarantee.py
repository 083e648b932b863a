"""What the numbers of the guarantee cost and buy, over several seeds.

Run as ``python -m benchmarks.guarantee``. Every seed runs the default demo under static-max, the
policy `voltana` as it is, and the same with a low end of what certifies (q_cert = 0.4), so that
each row compares what served the same requests up to the same instant. "most constant" is known
beforehand; "most" is what the account allows, whose constant follows the highest margin so far.
``--noise`` makes latencies noisier than the plant's are. ``--elsewhere`` runs models, hardware and
loads on which nobody has chosen a number, at a share of what their fastest clock serves at most.
"""

from __future__ import annotations

import argparse
import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.cells import Cell
from benchmarks.matrix import saturation_rps
from voltana.evaluation.compare import compare
from voltana.evaluation.scenario import load_scenario
from voltana.policies.default import PROMISE
from voltana.policies.named import get_policy
from voltana.predictors.conformal import PROFILED_MARGIN, Conformal

if TYPE_CHECKING:
    from collections.abc import Callable

    from voltana.evaluation.metrics import Result
    from voltana.policy import InstanceContext, InstancePolicy, Policy
    from voltana.promise import Statement

LOW = dataclasses.replace(PROMISE, q_cert=0.4)
HEADER = (
    "statement", "seeds", "saved %", "TTFT %", "ITL %", "tokens %", "certified %", "most constant",
    "violated", "missed", "most", "overdue",
)  # fmt: skip


SUMS = ("violated", "missed", "bound", "overdue")

DEMO = Cell(model="llama-3.1-8b", workload="sharegpt", rate_rps=60.0)
ELSEWHERE = tuple(
    Cell(model=model, hardware=hardware, workload=workload, rate_rps=0.0)
    for model, hardware in (("qwen3-30b-a3b", "h100-sxm"), ("deepseek-v2-lite", "a100-sxm4-40gb"))
    for workload in ("azure-conv", "arxiv")
)
"""A mixture of experts and one with latent attention; chats and long prompts that were recorded."""

SHARE = 0.6
"""Of the rate at which an instance is busy all the time."""


def under(statement: Statement) -> Policy:
    """The policy `voltana` with another statement."""
    usual = get_policy("voltana")

    def control(context: InstanceContext) -> InstancePolicy:
        from voltana.policies.default import latency_model  # noqa: PLC0415

        guard = Conformal(latency_model(context), statement, first=PROFILED_MARGIN)
        return usual.control(dataclasses.replace(context, predictor=guard))

    return dataclasses.replace(usual, name="low", control=control)


def run(cell: Cell, seed: int, duration_s: float, noise: float | None) -> dict[str, Result]:
    """The results of one seed, by policy."""
    flags: dict[str, Any] = {"policies": ["static-max", "voltana"], "seed": seed}
    for name, value in cell.fields(duration_s).items():
        table, _, key = name.partition(".")
        flags.setdefault(table, {})[key] = value
    if noise is not None:
        flags["engine"] = {"latency_noise": noise}
    scenario = load_scenario(None, flags)
    policies = {**scenario.policies, "low": under(LOW)}
    made = compare(dataclasses.replace(scenario, policies=policies))
    return {run.result.policy: run.result for run in made.runs}


def row(name: str, statement: Statement, results: list[Result]) -> tuple[str, ...]:
    """Means over the seeds; counts are sums."""

    def mean(of: Callable[[Result], float]) -> str:
        return f"{100 * float(np.mean([of(result) for result in results])):.2f}"

    accounts = [result.guarantee or {} for result in results]
    return (
        name, str(len(results)), mean(lambda r: r.energy_saved_vs_static_max),
        mean(lambda r: r.ttft_attainment), mean(lambda r: r.itl_attainment),
        mean(lambda r: r.itl_token_attainment), mean(lambda r: r.certified_share),
        f"{statement.constant(PROFILED_MARGIN, 1):.1f}",
        *(f"{sum(a[key] for a in accounts):.0f}" for key in SUMS),
    )  # fmt: skip


def promised(results: list[Result]) -> list[str]:
    """What was promised to requests, by leg, summed over the seeds."""
    lines = ["| threshold | arrived | promised % | missed | proven most |", f"|{'---|' * 5}"]
    for leg in ("ttft", "itl"):
        accounts = [result.requests[leg] for result in results if result.requests]
        total = {key: sum(a[key] for a in accounts) for key in accounts[0]}
        share = 100 * total["promised"] / total["arrived"]
        cells = (leg, f"{total['arrived']:.0f}", f"{share:.2f}")
        counts = (f"{total['missed']:.0f}", f"{total['bound']:.0f}")
        lines.append(f"| {' | '.join((*cells, *counts))} |")
    return lines


def at_its_share(cell: Cell) -> Cell:
    """The cell at a rate that its model and hardware can bear."""
    most_rps = saturation_rps(cell.hardware, cell.model, cell.workload)
    return dataclasses.replace(cell, rate_rps=round(SHARE * most_rps, 1))


def compared(cell: Cell, seeds: list[int], duration_s: float, noise: float | None) -> None:
    """Print the rows of one cell, and what the statement costs beside the low one."""
    results = [run(cell, seed, duration_s, noise) for seed in seeds]
    print(f"\n{cell.name}\n\n| {' | '.join(HEADER)} |\n|{'---|' * len(HEADER)}")
    for name, policy, statement in (("q_cert = 0.4", "low", LOW), ("as it is", "voltana", PROMISE)):
        print(f"| {' | '.join(row(name, statement, [r[policy] for r in results]))} |")
    print("", *promised([r["voltana"] for r in results]), sep="\n")
    for name in ("energy_saved_vs_static_max", "itl_token_attainment"):
        more = [100 * (getattr(r["voltana"], name) - getattr(r["low"], name)) for r in results]
        print(f"\nDifference of {name}, points, seed by seed: {np.round(more, 2).tolist()}")
    print(flush=True)


def main() -> None:
    """Print the tables as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=list(range(21, 27)))
    parser.add_argument("--duration", type=float, default=120.0, help="seconds of arrivals")
    parser.add_argument("--rate", type=float, help="requests/s; the demo's by default")
    parser.add_argument("--noise", type=float, help="log deviation of latencies")
    parser.add_argument("--elsewhere", action="store_true", help="where no number was chosen")
    given = parser.parse_args()
    demo = DEMO if given.rate is None else dataclasses.replace(DEMO, rate_rps=given.rate)
    for cell in map(at_its_share, ELSEWHERE) if given.elsewhere else (demo,):
        compared(cell, given.seeds, given.duration, given.noise)


if __name__ == "__main__":
    main()
