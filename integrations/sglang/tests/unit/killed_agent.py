"""Kills an agent at random moments under load, and compares its account with what happened.

``python integrations/sglang/tests/unit/killed_agent.py --kills 200`` (``make kills``) does so in
runs of ten, each a seed; one that was broken off goes on where it was (``out/kills.jsonl``).
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import logging
import math
import os
import random
import signal
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import structlog
from agent_world import TABLE, World
from fake_scheduler import FakeEngine

from voltana.actuators import RecordingActuator
from voltana.cluster.promised_requests import PromisedRequests
from voltana.serving.agent.open_decisions import OpenDecisions
from voltana.slo import Slo
from voltana.timebase import MonotonicTime
from voltana.values import Load, Status
from voltana_ring.layout import Change

ENGINE = {"hardware": "a100-sxm4-80gb", "model": "llama-3.1-8b"}
LOAD = Load.decode(4, 2000)
SLO = Slo(ttft_s=1.0, itl_s=0.02)

RESULTS = Path(__file__).parents[4] / "out" / "kills.jsonl"
KILLS_A_RUN = 10
STALLS = 0.02
"""Share of iterations that take far too long, on the device or before it, on the host."""

MOST_DECISIONS = 60
"""Certified decisions of one life, at most."""


@dataclass(frozen=True, kw_only=True)
class Found:
    """What happened, and what the account has after the last restart.

    Attributes:
        kills: How often the agent was killed.
        decided: Certified decisions that were written down as they were made.
        violated: Those of them that took longer than their budget.
        promised: Requests that were promised, likewise.
        late: Those of them that were above their threshold.
        account: Of iterations.
        lost: Certified decisions without a label, by cause.
        certified: Certified decisions, as the account has it.
        requests: The account of promised requests.
    """

    kills: int
    decided: int
    violated: int
    promised: int
    late: int
    account: dict[str, float]
    lost: dict[str, int]
    certified: int
    requests: dict[str, float]

    def problems(self) -> list[str]:
        """Where the account claims less than what happened."""
        account, requests, lost = self.account, self.requests, sum(self.lost.values())
        holds = {
            "violations": self.violated <= account["violated"] + lost,
            "certified decisions": self.decided <= self.certified,
            "one decision lost a kill": self.lost.get("restart", 0) <= self.kills,
            "bound": account["violated"] <= account["missed"] <= account["bound"],
            "late requests": self.late <= requests["missed"] + requests["forgiven"],
            "promised requests": self.promised <= requests["promised"],
            "bound of requests": requests["missed"] <= requests["bound"],
            "every request once": requests["promised"]
            == sum(requests[name] for name in ("scored", "withdrawn", "lost", "in_flight")),
        }
        return [name for name, held in holds.items() if not held]


def child(world, log, promises, decided):
    """An agent's life, until it is killed: every decision is written down as it is made."""
    add, follow = OpenDecisions.add, PromisedRequests._follow
    restored = []

    def noted(self, iteration, decision, issuer):
        if decision is not None:
            if decision.status is Status.CERTIFIED:
                os.write(log, b"%d %.9f\n" % (iteration, decision.budget_s))
            os.write(decided, b"d")
        add(self, iteration, decision, issuer)

    def followed(self, key, found):
        if found.promised and restored:
            os.write(promises, b"%d\n" % key)
        follow(self, key, found)

    OpenDecisions.add, PromisedRequests._follow = noted, followed
    group = world.make_group()
    group.settings = dataclasses.replace(group.settings, slo=SLO)
    group.scan()
    restored.append(True)
    while True:
        group.drain()
        group.tick(0.2)


class KilledEngine:
    """A fake engine in time of its own, so that a busy machine violates nothing."""

    def __init__(self, world, rng):
        self.now_s = time.monotonic()
        self.engine = FakeEngine(
            world.config.agent.rings, "decode-0", lambda: self.now_s, says_idle=True
        )
        self.rng, self.ready_s, self.gaps = rng, math.nan, {}
        self.running, self.means_s, self.born = {}, {}, 0

    def run(self):
        self.now_s += 0.0002
        self._join_and_leave()
        stalls, on_host = self.rng.random() < STALLS, self.rng.random() < 0.5
        self.now_s += 0.06 if stalls and on_host else 0.0
        launch_s = self.engine.launch(LOAD)
        latency_s = 0.06 if stalls and not on_host else 0.004
        time.sleep(0.002)
        self.now_s = launch_s + latency_s
        first = math.isnan(self.ready_s)
        self.gaps[self.engine.iteration] = latency_s if first else self.now_s - self.ready_s
        self.ready_s = self.now_s
        self.engine.finish(LOAD, launch_s, latency_s)
        for request in self.running.values():
            request[1] += 1

    def _join_and_leave(self):
        changes = []
        for name, (begun_s, tokens, wanted) in list(self.running.items()):
            if tokens >= wanted:
                del self.running[name]
                self.means_s[name] = (self.ready_s - begun_s) / (tokens - 1)
                changes.append((name, self.ready_s, Change.ENDED, tokens))
        while len(self.running) < LOAD.decode_requests:
            self.born += 1
            self.running[self.born] = [self.now_s, 1, self.rng.randint(3, 12)]
            changes.append((self.born, self.now_s, Change.JOINED, 0))
        if changes:
            self.engine.tell(LOAD, *changes)


def survive(folder, kills, seed):
    """Kill an agent at random moments under load; what happened, and what it claims."""
    world = World(folder, engine=dict(ENGINE), policy={"controller": "voltana"})
    world.time = MonotonicTime()
    world.actuator = RecordingActuator(TABLE, time=world.time)
    world.engine.close()
    rng, paths = random.Random(seed), [folder / "decisions.log", folder / "promises.log"]
    engine = KilledEngine(world, rng)
    logs = [os.open(path, os.O_CREAT | os.O_WRONLY | os.O_APPEND) for path in paths]
    for _ in range(kills):
        said, decided = os.pipe()
        os.set_blocking(said, False)
        pid = os.fork()
        if not pid:
            try:
                child(world, *logs, decided)
            finally:
                os._exit(1)
        left = rng.randint(1, MOST_DECISIONS)
        while left > 0:
            engine.run()
            with contextlib.suppress(BlockingIOError):
                left -= len(os.read(said, 4096))
        time.sleep(rng.random() * 0.004)
        os.kill(pid, signal.SIGKILL)
        assert os.waitpid(pid, 0)[1] == signal.SIGKILL
        os.close(said)
        os.close(decided)
    group = world.make_group()
    group.scan()
    group.drain()
    found = compared(next(iter(group._served.values())).guarantee, engine, kills, paths)
    group.close()
    engine.engine.close()
    for log in logs:
        os.close(log)
    return found


def compared(claimed, engine, kills, paths):
    """What was written down against what happened, beside what is claimed."""
    decisions, promises = (path.read_text().splitlines() for path in paths)
    budgets_s = dict(map(float, line.split()) for line in decisions)
    promised = {int(line) for line in promises}
    return Found(
        kills=kills,
        decided=len(budgets_s),
        violated=sum(engine.gaps[int(n)] > budget_s for n, budget_s in budgets_s.items()),
        promised=len(promised),
        late=sum(engine.means_s.get(name, 0.0) > SLO.itl_s for name in promised),
        account=claimed.account(),
        lost=claimed.unlabelled(),
        certified=claimed.certified,
        requests=claimed.requests.accounts()["itl"],
    )


def main() -> int:
    """Run, and print what was found; 1 if an account claims less than what happened."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0, help="of the first run of ten")
    given = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    RESULTS.parent.mkdir(exist_ok=True)
    lines = RESULTS.read_text().splitlines() if RESULTS.exists() else []
    known = {found["seed"]: found for found in map(json.loads, lines)}
    seeds = range(given.seed, given.seed + math.ceil(given.kills / KILLS_A_RUN))
    for seed in (seed for seed in seeds if seed not in known):
        with tempfile.TemporaryDirectory() as folder:
            found = survive(Path(folder), KILLS_A_RUN, seed)
        known[seed] = {"seed": seed, **dataclasses.asdict(found), "problems": found.problems()}
        with RESULTS.open("a", encoding="utf-8") as file:
            file.write(json.dumps(known[seed]) + "\n")
        print(f"seed {seed}: {found.problems() or 'holds'}", flush=True)
    runs = [known[seed] for seed in seeds]
    for name in ("kills", "decided", "violated", "promised", "late"):
        print(f"{name}: {sum(run[name] for run in runs)}")
    for account, name in (
        ("account", "violated"), ("account", "missed"), ("requests", "missed"),
        ("requests", "forgiven"),
    ):  # fmt: skip
        print(f"{account}, {name}: {sum(run[account][name] for run in runs):.0f}")
    print(f"decisions lost: {sum(sum(run['lost'].values()) for run in runs)}")
    bad = [run["seed"] for run in runs if run["problems"]]
    print(f"runs whose account claims less than what happened: {bad or 'none'}")
    return int(bool(bad))


if __name__ == "__main__":
    sys.exit(main())
