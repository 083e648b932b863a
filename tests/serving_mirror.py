"""The serving path beside a simulation: its states through ring, agent's loop, feed and router."""

from __future__ import annotations

import copy
import dataclasses
import math
import types

from tests.compared import same, with_pace
from voltana.cluster.admission import decode_slack_s, prefill_slack_s
from voltana.cluster.candidates import instance_facts, latency_model
from voltana.cluster.context import iteration_budget_s
from voltana.cluster.ledger import Ledger
from voltana.cluster.needs import unmet
from voltana.cluster.renewed import Renewed
from voltana.plant.cluster import ClusterSpec, EngineOptions
from voltana.plant.decode import DecodeInstance
from voltana.plant.hardware import load_hardware
from voltana.plant.iteration import PlantModel
from voltana.plant.model import load_model
from voltana.plant.simulation import Simulation
from voltana.policies.named import get_policy
from voltana.ports import needs_of
from voltana.serving.agent.accounting import Account
from voltana.serving.agent.building import engine_limits
from voltana.serving.agent.ring_loop import RingLoop
from voltana.serving.agent.sensing import ClockHistory
from voltana.serving.config import parse_config
from voltana.serving.feed import FeedPublisher
from voltana.serving.ring_reader import RingReader
from voltana.serving.router.chooser import RoleChooser
from voltana.serving.router.feeds import FeedFollower
from voltana.serving.router.pool import Backend
from voltana.serving.router.reports import Reports
from voltana.serving.router.settings import BackendTable, RouterTable
from voltana.slo import Slo
from voltana.values import Decision, Deferral, Load, Reading, Role
from voltana_ring.layout import MAX_ENTRIES, Kind
from voltana_ring.writer import RingWriter

SLO = Slo(ttft_s=0.8, itl_s=0.05)
HARDWARE, MODEL = "a100-sxm4-80gb", "llama-3.1-8b"
SIMULATOR_ONLY = {"bench", "seed"}


def cluster(**engine):
    return ClusterSpec(
        hardware=load_hardware(HARDWARE),
        model=load_model(MODEL),
        slo=SLO,
        prefill=1,
        decode=2,
        engine=EngineOptions(**engine),
    )


PLANT = PlantModel(load_hardware(HARDWARE), load_model(MODEL), 1)


def info_of(spec, role):
    """What the plugin writes into a ring's header of such an engine."""
    limits = spec.limits
    return {
        "role": role.value,
        "model": MODEL,
        "tp_size": spec.tensor_parallel,
        "kv_capacity_tokens": limits.kv_capacity_tokens,
        "kv_reserved_tokens": limits.kv_reserved_tokens,
        "max_running_requests": limits.max_running_requests,
        "max_prefill_tokens": limits.max_batch_tokens,
    }


CONFIG = parse_config(
    {
        "slo": {"ttft_ms": 800.0, "itl_ms": 50.0},
        "engine": {"hardware": HARDWARE, "model": MODEL},
    }
)


class Sensor:
    """The true clock of a simulated board, read without touching its noise."""

    def __init__(self, board):
        self._board = board
        self.history = ClockHistory()

    def read(self):
        board = self._board
        nan = math.nan
        return Reading(at_s=board.at_s, clock_mhz=board.clock_mhz, power_w=nan, energy_j=nan)


class Noting:
    """Stands for the control loop of the agent: notes what it is asked to decide on."""

    predictor = power = None
    instance = "noting"

    def __init__(self, loop):
        self.asked = []
        self.demand_per_s = loop.demand_per_s

    def decide(self, load, queue, slack_s=math.nan):
        self.asked.append((load, queue))
        return Decision(clock_mhz=1.0, reason="noted")


class Beside:
    """The serving path of one simulated instance: ring, agent's loop, feed."""

    def __init__(self, folder, simulation, instance, follower):
        runner = instance.runner
        self.instance = instance
        self.name = runner.loop.instance
        self.role = Role.DECODE if isinstance(instance, DecodeInstance) else Role.PREFILL
        self._time = time = simulation._events
        self._follower = follower
        spec = simulation._cluster
        info = info_of(spec, self.role)
        path = folder / f"{self.name}.ring"
        self._writer = RingWriter(path, folder / f"{self.name}.bell", info, slots=8)
        self._reader = RingReader(path)
        limits = engine_limits(CONFIG.engine, self._reader.info)
        self.loop = Noting(runner.loop)
        self._ring_loop = RingLoop(
            self.loop,
            Sensor(runner.board),
            slo=CONFIG.thresholds(),
            max_batch_tokens=limits.max_batch_tokens,
            account=Account(),
            time=time,
        )
        if self.role is Role.PREFILL:  # what is promised is of the simulation, and told on
            self._ring_loop.guarantee.requests.promises = instance._promises
        budget_s = iteration_budget_s(self.role, CONFIG.thresholds())
        self._facts = Renewed(
            lambda: instance_facts(
                latency_model(runner.loop),
                runner.loop.power,
                levels_mhz=runner.loop.levels_mhz,
                budget_s=budget_s,
                limits=limits,
                ttft_s=CONFIG.thresholds().ttft_s,
            ),
            time,
            spec.engine.snapshot_period_s,
        )
        self._feed = FeedPublisher(f"inproc://{id(self)}", self.name, time)
        self._feed._listeners = types.SimpleNamespace(
            said=lambda: (), send=follower.take, close=self._feed._listeners.close
        )
        self._iteration = 0
        self.rooms = []  # of requests that it took up since it published last

    def launch(self, load, jobs, late=(), *, launch_s=None):
        """The engine has launched an iteration, or none; the oldest of `late` has waited longest.

        It launches it now where nothing says when.
        """
        self._iteration += 1
        now_s, nan = self._time.now_s(), math.nan
        launch_s = now_s if launch_s is None else launch_s
        oldest_s = min((job.arrival_s for job in late), default=nan)
        entries = ()
        if self.role is Role.PREFILL:
            left = [(j.arrival_s, j.prompt_tokens - j.prefilled_tokens, j.prefilled_tokens)
                    for j in jobs]  # fmt: skip
            tokens = sum(new for _, new, _ in left)
            entries = tuple(figure for w in left[:MAX_ENTRIES] for figure in w)
        else:
            tokens = sum(job.context_tokens for job in jobs)
        idle = not (load.prefill_tokens or load.decode_requests)
        self._writer.write(
            (
                Kind.IDLE if idle else Kind.LAUNCHED, 0, 0, len(entries) // 3, 0, self._iteration,
                now_s, load.prefill_tokens, load.prefill_attended_pairs, load.decode_requests,
                load.decode_kv_tokens, len(jobs), tokens, oldest_s, launch_s, nan, nan,
            ),
            entries,
        )  # fmt: skip
        self._ring_loop.take(self._reader.drain())

    def publish(self):
        """What it holds now, through ring and feed."""
        held = self.instance
        if self.role is Role.PREFILL:
            late = [*held._batch, *held._waiting]
            launch_s = held.runner.started_s if held.busy else None
            self.launch(held._load, list(held._waiting), late, launch_s=launch_s)
        else:
            running = Load.decode(len(held._running), held._running_tokens)
            waiting = [*held._blocked, *held._ready, *held.moving]
            self.launch(running, waiting, held._blocked)  # the others do not wait any more
        age_s = self._time.now_s() - self._ring_loop.sampled_s
        rooms, self.rooms = self.rooms, []
        self._feed.publish(
            self._ring_loop.state,
            age_s=age_s,
            facts=self._facts.current(),
            rooms=rooms,
            names_waiting=self.role is Role.PREFILL,
        )

    def close(self):
        self._reader.close()
        self._writer.close()
        self._feed.close()


class Mirror:
    """A simulation with the serving path beside it, compared at every step."""

    def __init__(self, folder, spec, trace):
        self.queues = self.deadlines = self.candidates = self.deferrals = self.slacks = 0
        self.holding = 0
        policy = get_policy("voltana")
        comparing = dataclasses.replace(
            policy,
            prefill_router=lambda seed: self._router(Role.PREFILL, policy.prefill_router(seed)),
            decode_router=lambda seed: self._router(Role.DECODE, policy.decode_router(seed)),
        )
        self.simulation = Simulation(spec, comparing, trace, seed=1, plant=PLANT)
        time = self.simulation._events
        # Rooms say what a prefill instance has taken up from its host, as plugins do.
        self._ledger, self._reports = Ledger(), Reports(0.1)
        names = {i.runner.loop.instance for i in self.simulation.instances}
        self._follower = FeedFollower(names, reports=self._reports, ledger=self._ledger, time=time)
        self.beside = [
            Beside(folder, self.simulation, instance, self._follower)
            for instance in self.simulation.instances
        ]
        for beside in self.beside:
            self._compare_queues(beside)
        self._mirror_ledger()
        self._compare_slacks()

    def _compare_queues(self, beside):
        instance, begin = beside.instance, beside.instance.runner.begin

        def compared(load, queue, now_s, slack_s=math.nan):
            if beside.role is Role.PREFILL:
                waiting = list(instance._waiting)
                beside.launch(load, waiting, [*instance._batch, *waiting])
            else:
                beside.launch(load, list(instance._blocked), instance._blocked)
            asked_load, asked_queue = beside.loop.asked[-1]
            same(load, asked_load)
            if len(instance._waiting if beside.role is Role.PREFILL else ()) <= MAX_ENTRIES:
                same(queue, asked_queue)
                self.queues += 1
                self.deadlines += bool(queue.deadlines)
            return begin(load, queue, now_s, slack_s)

        instance.runner.begin = compared
        if beside.role is Role.DECODE:
            instance.moving = moving = []
            deliver = instance._deliver

            def delivered(job, now_s):
                if job in moving:
                    moving.remove(job)
                deliver(job, now_s)

            instance._deliver = delivered
            admit = instance._admit

            def admitted(now_s):
                before = list(instance._blocked)
                admit(now_s)
                left = [*instance._blocked, *instance._ready, *instance._running.values()]
                moving.extend(j for j in before if j not in left and math.isinf(j.first_token_s))

            instance._admit = admitted

    def _mirror_ledger(self):
        ledger = self.simulation._dispatcher._ledger
        by_name = {beside.name: beside for beside in self.beside}

        def also(owner, name, repeat):
            original = getattr(owner, name)

            def both(*args):
                original(*args)
                repeat(*args)

            setattr(owner, name, both)

        def booked(entry):
            rid = f"request {entry.rid}"
            self._ledger.book(dataclasses.replace(entry, rid=rid, rooms=(entry.rid,)))

        also(ledger, "book", booked)
        also(ledger, "reported", lambda instance, rid, *_at: by_name[instance].rooms.append(rid))
        also(ledger, "prefilled", lambda rid, s: self._ledger.prefilled(f"request {rid}", s))
        also(ledger, "finished", lambda rid: self._ledger.finished(f"request {rid}"))
        caches, mine = ledger.caches, self._ledger.caches
        also(caches, "hold", lambda rid, *rest: mine.hold(f"request {rid}", *rest))
        also(caches, "fetched", lambda rid, now_s: mine.fetched(f"request {rid}", now_s))

    def _router(self, role, inner):
        mirror, needs = self, needs_of(inner)
        beside_engine = copy.deepcopy(inner)

        class Comparing:
            def route(self, request, candidates):
                shown = list(candidates)
                assert unmet(needs, shown) == {}
                shown_beside = with_pace(mirror.shown_beside(role), shown)
                for one, other in zip(shown, shown_beside, strict=True):
                    same(one.state, other.state)
                    same(one.reserved, other.reserved)
                    same(one, other)
                    mirror.candidates += 1
                    mirror.holding += one.held.requests > 0
                answer = inner.route(request, candidates)
                assert beside_engine.route(request, shown_beside) == answer
                mirror.deferrals += isinstance(answer, Deferral)
                return answer

        return Comparing()

    def _compare_slacks(self):
        """How long what is deferred may be held, by both; the simulator looks at that moment."""
        dispatcher, time = self.simulation._dispatcher, self.simulation._events
        lines = (dispatcher.holding, prefill_slack_s), (dispatcher.holding_late, decode_slack_s)
        for holding, beside_engine in lines:
            self._compare_slack(holding, holding._slack_s, beside_engine, time)

    def _compare_slack(self, holding, slack_of, beside_engine, time):
        def compared(request, line):
            simulated = self.simulation._dispatcher._prefill.candidates
            shown = with_pace(self.shown_beside(Role.PREFILL), simulated)
            slack_s = beside_engine(request, shown, time.now_s(), line)
            assert slack_of(request, line) == slack_s
            self.slacks += slack_s > 0
            return slack_s

        holding._slack_s = compared

    def shown_beside(self, role):
        """What the router beside an engine is shown of the same state."""
        members = [beside for beside in self.beside if beside.role is role]
        for beside in members:
            beside.publish()
        tables = [
            BackendTable(name=b.name, role=role.value, url=f"http://h:{i + 1}")
            for i, b in enumerate(members)
        ]
        backends = [Backend(table, RouterTable()) for table in tables]
        for backend in backends:
            backend.passed_check()
        leg = RoleChooser(
            backends,
            types.SimpleNamespace(route=lambda _request, shown: shown[0].instance),
            ledger=self._ledger,
            reports=self._reports,
            time=self.simulation._events,
            count=lambda _role, _source: None,
        )
        shown, source = leg._candidates(backends)
        assert source == "feed"
        return shown

    def close(self):
        for beside in self.beside:
            beside.close()


def run(folder, spec, trace):
    mirror = Mirror(folder, spec, trace)
    try:
        mirror.simulation.run()
    finally:
        mirror.close()
    return mirror
