"""What a router's decision costs, over the number of instances it chooses among.

    python -m benchmarks.routing_scale --plot docs/images/routing-scale.png

Candidates are those of a simulated cluster that has served for a while, copied to the wanted number
under other names, with loads and ledgers of their own. Before each decision one of them has made
another iteration and one another reservation, as between two requests. Median and 99th percentile
of one run, in us of CPU time; the project's targets are 100 us at 64 instances and 1 ms at 1,024.
"""

from __future__ import annotations

import argparse
import dataclasses
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from voltana.evaluation.scenario import load_scenario
from voltana.plant.simulation import Simulation
from voltana.policies import get_policy
from voltana.values import Request, Role

if TYPE_CHECKING:
    from voltana.ports import Router
    from voltana.values import Candidate

SIZES = (2, 4, 16, 64, 256, 1024)
POLICIES = ("static-max", "voltana-v0.1", "voltana")
DECISIONS = 400
WARM_UP_S = 12.0


def seen(role: Role) -> list[Candidate]:
    """What the router of a role is shown in a cluster that has served for a while."""
    kept: dict[Role, list[Candidate]] = {}

    class Watching:
        """Keeps what it is shown."""

        def __init__(self, router: Router, of: Role) -> None:
            self._router, self._of = router, of

        def route(self, request: Request, candidates: list[Candidate]) -> object:
            kept[self._of] = list(candidates)
            return self._router.route(request, candidates)

    policy = get_policy("voltana")
    watched = dataclasses.replace(
        policy,
        prefill_router=lambda seed: Watching(policy.prefill_router(seed), Role.PREFILL),
        decode_router=lambda seed: Watching(policy.decode_router(seed), Role.DECODE),
    )
    load = {"rate_rps": 60.0, "duration_s": WARM_UP_S}
    scenario = load_scenario(None, {"policies": ["voltana"], "workload": load})
    Simulation(scenario.cluster, watched, scenario.trace, plant=scenario.plant).run(
        until_s=WARM_UP_S
    )
    return kept[role]


def copies(of: list[Candidate], count: int, rng: np.random.Generator) -> list[Candidate]:
    """So many instances of the same kind, each under its own load."""
    made = []
    for index in range(count):
        template = of[index % len(of)]
        running = int(rng.integers(10, 120))
        state = dataclasses.replace(
            template.state, running_requests=running, kv_tokens=running * 300
        )
        made.append(
            dataclasses.replace(
                template,
                instance=f"{template.role.value}-{index}",
                state=state,
                in_flight=running + int(rng.integers(0, 4)),
            )
        )
    return made


def decisions_us(router: Router, pool: list[Candidate], rng: np.random.Generator) -> np.ndarray:
    """What each of `DECISIONS` takes, in us."""
    took_us = []
    for index in range(DECISIONS):
        for place in rng.integers(0, len(pool), 2):
            one = pool[place]
            running = int(rng.integers(10, 120))
            state = dataclasses.replace(
                one.state, running_requests=running, kv_tokens=running * 300
            )
            pool[place] = dataclasses.replace(one, state=state, in_flight=running + 1)
        request = Request(request_id=index, arrived_at_s=100.0, prompt_tokens=250, slack_s=0.3)
        before_s = time.thread_time()
        router.route(request, pool)
        took_us.append(1e6 * (time.thread_time() - before_s))
    return np.array(took_us[DECISIONS // 10 :])


def main() -> None:
    """Print the table as Markdown, and draw it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--plot", type=Path, help="draw the cost over the size there")
    asked = parser.parse_args()
    lines: dict[str, list[float]] = {}
    print("| router | " + " | ".join(f"{size}" for size in SIZES) + " |")
    print("|---|" + "---:|" * len(SIZES))
    for role in (Role.PREFILL, Role.DECODE):
        templates = seen(role)
        for name in POLICIES:
            policy = get_policy(name)
            make = policy.prefill_router if role is Role.PREFILL else policy.decode_router
            cells = []
            for size in SIZES:
                rng = np.random.default_rng(size)
                took_us = decisions_us(make(0), copies(templates, size, rng), rng)
                lines.setdefault(f"{name}, {role.value}", []).append(float(np.median(took_us)))
                cells.append(f"{np.median(took_us):.0f} / {np.quantile(took_us, 0.99):.0f}")
            print(f"| {name}, {role.value} | {' | '.join(cells)} |", flush=True)
    if asked.plot is not None:
        draw(lines, asked.plot)


def draw(lines: dict[str, list[float]], path: Path) -> None:
    """Cost over size, with the targets."""
    from voltana.evaluation.style import COLOURS, new_figure, style  # noqa: PLC0415

    figure = new_figure(7.0, 4.2)
    axes = figure.subplots()
    for index, (name, medians) in enumerate(lines.items()):
        colour = COLOURS[index % len(POLICIES)]
        dashes = "--" if name.endswith("prefill") else "-"
        axes.loglog(SIZES, medians, dashes, marker="o", ms=3, color=colour, label=name)
    axes.plot((64, 1024), (100, 1000), "kx", label="targets")
    axes.set_xlabel("instances of the role")
    axes.set_ylabel("a decision, median (us)")
    axes.set_xticks(SIZES, [str(size) for size in SIZES])
    axes.minorticks_off()
    axes.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))
    style(axes, "both")
    figure.savefig(path)


if __name__ == "__main__":
    main()
