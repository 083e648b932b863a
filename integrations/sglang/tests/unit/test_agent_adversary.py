"""An adversary beside an agent: it runs the engine, stalls, loses records, kills, changes policies.

What it did is kept apart, and held against the account: no certified decision is missing, and none
that was violated goes unclaimed, whatever happened to the ring, the agent and the settings.
"""

from __future__ import annotations

import math
import os
import tempfile
from collections import deque
from pathlib import Path

import pytest
from agent_world import World, served
from fake_scheduler import FakeEngine
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from killed_agent import ENGINE

from voltana.cluster.promised_requests import PromisedRequests
from voltana.serving.agent.open_decisions import OpenDecisions
from voltana.slo import Slo
from voltana.values import Limit, Load, Status
from voltana_ring.layout import GUARD_OFFSET, HEADER_BYTES, SLOT_BYTES, SLOTS, Change, Kind

LOAD = Load.decode(4, 2000)
PROMPT = Load.prefill([(200, 0)])
SLO = Slo(ttft_s=1.0, itl_s=0.02)
STALL_S = 0.3
NORMAL_S = 0.004
RETURN = 500


class Adversary(RuleBasedStateMachine):
    """Runs an engine beside an agent; `violated` and `decided` are what really happened."""

    ROLE = "decode"

    def __init__(self):
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.world = World(
            Path(self.folder.name), engine=dict(ENGINE), policy={"controller": "voltana"}
        )
        self.world.engine.close()
        self.engines, self.dead = 0, []
        self.budgets_s, self.latencies_s = {}, {}
        self.promised_s, self.late, self.born = {}, set(), 0
        self._add, self._follow = OpenDecisions.add, PromisedRequests._follow
        OpenDecisions.add = self._noting(self._add)
        PromisedRequests._follow = self._following(self._follow)
        self.start_engine()
        self.world.group.scan()
        self.world.group.set_slo(SLO)

    def _noting(self, add):
        def noted(opened, iteration, decision, issuer):
            if decision is not None and decision.status is Status.CERTIFIED:
                self.budgets_s.setdefault((self.engines, iteration), decision.budget_s)
            add(opened, iteration, decision, issuer)

        return noted

    def _following(self, follow):
        def followed(ledger, key, found):
            if found.promised:
                leg = "ttft" if found.deadline_s < math.inf else "itl"
                self.promised_s.setdefault((leg, self.engines, key), found.threshold_s)
            follow(ledger, key, found)

        return followed

    def start_engine(self):
        self.engines += 1
        self.world.engine = FakeEngine(
            self.world.config.agent.rings, "decode-0", self.world.time.now_s, says_idle=True,
            role=self.ROLE,
        )  # fmt: skip
        self.running, self.ready_s, self.joined_s, self.waiting_s = deque(), None, {}, {}

    def teardown(self):
        """When all is over, nothing is open that has ended."""
        try:
            for _ in range(len(self.running) + 1):
                self.launch(read=True)
                self.finish(NORMAL_S, 0.0, "told", read=True)
            while self.running:
                self.finish(NORMAL_S, 0.0, "told", read=True)
            self.join(1, read=True)
            self.await_deadlines()
            self.hold(also_open=False)
            self.live()
        finally:
            self.clear_up()

    def await_deadlines(self):
        """Nobody waits in a decode engine."""

    def live(self):
        """Certificates return."""
        self.policy("voltana")
        self.limit(1410.0)
        self.levels(None)
        self.slo(0.1)
        before = len(self.budgets_s)
        for _ in range(RETURN):
            self.launch(read=True)
            if len(self.budgets_s) > before:
                return
            self.finish(NORMAL_S, 0.0, "told", read=True)
        raise AssertionError(f"nothing was certified in {RETURN} iterations")

    def clear_up(self):
        OpenDecisions.add, PromisedRequests._follow = self._add, self._follow
        for group in (self.world.group, *self.dead):
            group.close()
        self.world.engine.close()
        self.folder.cleanup()

    @precondition(lambda self: len(self.running) < 2)
    @rule(read=st.booleans())
    def launch(self, read):
        launch_s = self.world.engine.launch(LOAD)
        self.running.append((self.world.engine.iteration, launch_s))
        if read:
            self.world.group.drain()

    @precondition(lambda self: self.running)
    @rule(
        device_s=st.sampled_from([NORMAL_S, NORMAL_S, NORMAL_S, STALL_S]),
        host_s=st.sampled_from([0.0, 0.0, 0.0, 0.05, STALL_S]),
        told=st.sampled_from(["told", "told", "told", "lost", "torn", "nonsense"]),
        read=st.booleans(),
    )
    def finish(self, device_s, host_s, told, read):
        iteration, launch_s = self.running.popleft()
        engine, time = self.world.engine, self.world.time
        time.advance(host_s + device_s)
        now_s = time.now_s()
        since_s = now_s - device_s if self.ready_s is None else self.ready_s
        self.latencies_s[self.engines, iteration] = max(device_s, now_s - since_s)
        self.ready_s = now_s
        if told != "lost":
            newest, engine.iteration = engine.iteration, iteration
            latency_s = -1.0 if told == "nonsense" else device_s
            engine._write(Kind.FINISHED, LOAD, launch_s, now_s, latency_s)
            engine.iteration = newest
            if told == "torn":
                self.tear()
        if read:
            self.world.group.drain()

    def tear(self):
        """Damage the newest record, as if it were written over while it is read."""
        path = next(self.world.config.agent.rings.glob("*.ring"))
        handle = os.open(path, os.O_RDWR)
        number = int.from_bytes(os.pread(handle, 8, 256), "little") - 1
        os.pwrite(handle, b"\xa5" * 4, HEADER_BYTES + number % SLOTS * SLOT_BYTES + GUARD_OFFSET)
        os.close(handle)

    @precondition(lambda self: self.running)
    @rule()
    def launch_again(self):
        """The same iteration is told twice."""
        self.world.engine._write(Kind.LAUNCHED, LOAD, self.world.time.now_s())
        self.world.group.drain()

    @precondition(lambda self: not self.running)
    @rule(hours=st.sampled_from([0.0, 0.001, 3.0]))
    def idle(self, hours):
        self.world.engine.idle()
        self.ready_s = None
        self.world.time.advance(3600.0 * hours + 0.001)

    @precondition(lambda self: not self.running)
    @rule()
    def overrun(self):
        """More is told than the ring holds, and nobody reads."""
        for _ in range(SLOTS + 10):
            self.world.engine.idle()
        self.ready_s = None

    @rule(count=st.integers(1, 4), read=st.booleans())
    def join(self, count, read):
        now_s = self.world.time.now_s()
        for _ in range(count):
            self.born += 1
            self.joined_s[self.born] = now_s
            self.world.engine.tell(LOAD, (self.born, now_s, Change.JOINED, 0))
        if read:
            self.world.group.drain()

    @precondition(lambda self: self.joined_s)
    @rule(
        mean_s=st.sampled_from([0.001, 0.001, 0.5]),
        what=st.sampled_from([Change.ENDED, Change.ENDED, Change.ABORTED]),
        newest=st.booleans(),
        heard=st.sampled_from([True, True, True, False]),
    )
    def end(self, mean_s, what, newest, heard):
        key = (max if newest else min)(self.joined_s)
        self.world.time.advance(10 * mean_s)
        now_s, since_s = self.world.time.now_s(), self.joined_s.pop(key)
        threshold_s = self.promised_s.get(("itl", self.engines, key), 1e9)
        if (now_s - since_s) / (11 if what is Change.ABORTED else 10) > threshold_s:
            self.late.add(("itl", self.engines, key))
        if heard:
            self.world.engine.tell(LOAD, (key, now_s, what, 11))
        else:
            self.world.engine.told += 1  # and was overwritten

    @rule(joins=st.integers(0, 3))
    def crash(self, joins):
        """An agent has decided and promised, and is gone before it has written that down."""
        if len(self.running) < 2:
            self.launch(read=False)
        if joins:
            self.join(joins, read=False)
        found = served(self.world.group)
        found.ring_loop.take(found.reader.drain())
        self.kill()

    @rule()
    def tick(self):
        self.world.time.advance(0.2)
        self.world.group.tick(0.2)

    @rule()
    def kill(self):
        """The agent is gone without a word, and comes back."""
        self.dead.append(self.world.group)
        settings_, limits = self.world.group.settings, self.world.group._limits
        self.world.group = self.world.make_group()
        self.world.group.settings, self.world.group._limits = settings_, limits
        self.world.group.scan()

    @rule()
    def stop(self):
        """It ends in order, and comes back."""
        settings_ = self.world.group.settings
        self.world.group.close()
        self.world.group = self.world.make_group()
        self.world.group.settings = settings_
        self.world.group.scan()

    @rule()
    def another_engine(self):
        self.world.engine.close()
        self.start_engine()
        self.world.group.scan()

    @rule(itl_s=st.sampled_from([0.02, 0.1]))
    def slo(self, itl_s):
        self.world.group.set_slo(Slo(ttft_s=1.0, itl_s=itl_s))

    @rule(policy=st.sampled_from(["voltana", "static-max", "voltana-mdp"]))
    def policy(self, policy):
        self.world.group.set_policy(policy)

    @rule(levels=st.sampled_from([None, "all", "1410", "600,1410", "above:1000"]))
    def levels(self, levels):
        self.world.group.set_levels(levels)

    @rule(most_mhz=st.sampled_from([700.0, 1410.0]))
    def limit(self, most_mhz):
        self.world.group.set_limit(Limit(source="operator", max_mhz=most_mhz))

    @invariant()
    def nothing_goes_unclaimed(self):
        """Of what was lost or torn the agent hears with the next result: it is open until then."""
        self.hold(also_open=True)

    def hold(self, *, also_open):
        self.world.group.drain()
        found = served(self.world.group)
        seen = found.guarantee.figures(found.ring_loop.open)
        ended = [key for key in self.budgets_s if key in self.latencies_s]
        violated = sum(self.latencies_s[key] > self.budgets_s[key] + 1e-9 for key in ended)
        assert violated <= seen["violated"] + seen["lost"] + also_open * seen["in_flight"]
        assert len(self.budgets_s) <= seen["decided"]
        parts = (seen["certified"], seen["elsewhere"], seen["unsettled"], seen["lost"])
        assert sum(parts) - seen["elsewhere_blocked"] + seen["in_flight"] == seen["decided"]
        assert seen["violated"] <= seen["missed"] <= seen["bound"]
        for leg in ("ttft", "itl"):
            promised = {key for key in self.promised_s if key[0] == leg}
            self.hold_requests(promised, seen["requests"].get(leg), also_open=also_open)

    def hold_requests(self, promised, seen, *, also_open):
        if seen is None:
            assert not promised
            return
        assert len(promised) <= seen["promised"]
        late = len(self.late & promised)
        assert late <= seen["missed"] + seen["forgiven"] + also_open * seen["in_flight"]
        assert seen["missed"] <= seen["bound"]
        ended = seen["scored"] + seen["withdrawn"] + seen["lost"]
        assert seen["promised"] == ended + seen["in_flight"]


class BothPhases(Adversary):
    """Its engine prefills as well: requests wait for a first token, which may never come."""

    ROLE = "unified"

    @rule(count=st.integers(1, 4), read=st.booleans())
    def wait(self, count, read):
        now_s = self.world.time.now_s()
        for _ in range(count):
            self.born += 1
            self.waiting_s[self.born] = now_s
            self.world.engine.tell(PROMPT, (self.born, now_s, Change.WAITS, 0))
        if read:
            self.world.group.drain()

    @precondition(lambda self: self.waiting_s)
    @rule(
        took_s=st.sampled_from([0.01, 0.01, 0.9, 1.5]),
        what=st.sampled_from([Change.FIRST, Change.FIRST, Change.GONE]),
        ticks=st.integers(0, 3),
    )
    def first(self, took_s, what, ticks):
        self.world.time.advance(took_s)
        for _ in range(ticks):
            self.tick()
        key = min(self.waiting_s)
        now_s = self.world.time.now_s()
        self.note_late(key, now_s)
        del self.waiting_s[key]
        self.world.engine.tell(PROMPT, (key, now_s, what, 1))

    def note_late(self, key, now_s):
        promised = ("ttft", self.engines, key)
        if now_s - self.waiting_s[key] > self.promised_s.get(promised, 1e9):
            self.late.add(promised)

    def await_deadlines(self):
        self.world.group.drain()
        self.world.time.advance(10.0)
        for key in self.waiting_s:
            self.note_late(key, self.world.time.now_s())
        self.tick()


def played(kind, examples, steps):
    """A test of a machine; what fails is shown as it is, for shrinking takes minutes."""
    case = kind.TestCase
    case.settings = settings(
        max_examples=examples, stateful_step_count=steps, deadline=None, phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    return case


class Longer(Adversary):
    """As long as the slow tests may take."""


class LongerBothPhases(BothPhases):
    """Likewise."""


EXAMPLES = int(os.environ.get("ADVERSARY_EXAMPLES", "4"))
TestDecode = played(Adversary, EXAMPLES, 40)
TestBothPhases = played(BothPhases, EXAMPLES, 40)
TestDecodeLong = pytest.mark.slow(played(Longer, 40, 50))
TestBothPhasesLong = pytest.mark.slow(played(LongerBothPhases, 40, 50))
