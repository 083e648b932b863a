"""What a simulated day costs by control, from a stretch of it: CPU time an iteration.

    python -m benchmarks.long_run --minutes 15

The load is that of the long run in docs/simulate.md (4 requests/s on 2P2D), at its mean rate. Times
are CPU time of this process, which other work on the same cores makes longer.
"""

from __future__ import annotations

import argparse
import time

from voltana.evaluation.reasons import counted
from voltana.evaluation.scenario import load_scenario
from voltana.garbage import look_seldom
from voltana.plant.simulation import Simulation
from voltana.policies import get_policy

DAY_S = 86_400.0
RATE_RPS = 4.0
CASES = (("voltana", True), ("voltana", False), ("static-max", False))


def main() -> None:
    """Print a line a policy, with timelines and without."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=15.0)
    duration_s = 60.0 * parser.parse_args().minutes
    load = {"rate_rps": RATE_RPS, "duration_s": duration_s}
    scenario = load_scenario(None, {"policies": ["voltana"], "workload": load})
    look_seldom()  # as the command line does
    print("| policy | timelines | iterations | us an iteration | s a day |")
    print("|---|---|---:|---:|---:|")
    for name, kept in CASES:
        policy = scenario.configured(get_policy(name))
        simulation = Simulation(
            scenario.cluster,
            counted(policy, {}) if kept else policy,
            scenario.trace,
            record_timeline=kept,
            plant=scenario.plant,
        )
        before_s = time.process_time()
        simulation.run()
        took_s = time.process_time() - before_s
        iterations = sum(instance.runner.iterations for instance in simulation.instances)
        print(
            f"| {name} | {'kept' if kept else 'none'} | {iterations} | "
            f"{1e6 * took_s / iterations:.0f} | {took_s * DAY_S / duration_s:.0f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
