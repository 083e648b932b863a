"""The two roles of a virtual SGLang: what becomes of a prompt in each."""

from __future__ import annotations

import asyncio
import itertools
from typing import TYPE_CHECKING, Any, Protocol

from voltana.plant.job import Job
from voltana.rehearsal.engine import decode_instance, prefill_instance
from voltana_sglang.rehearsal.answers import abort_reason, length_reason
from voltana_sglang.rehearsal.rooms import Corridor, Door
from voltana_sglang.rehearsal.scheduler_view import SeenDecode, SeenPrefill, SeenRequest

if TYPE_CHECKING:
    from voltana.rehearsal.engine import Engine
    from voltana.values import InstanceState, Load
    from voltana_ring.writer import RingWriter
    from voltana_sglang.rehearsal.asked import Asked

ABORTED = "Aborted by client"


class Progress:
    """How far the answer to a prompt is; one handler awaits it.

    Args:
        asked: The prompt.
        stream: Whether its tokens are told one by one.

    Attributes:
        asked: See above.
        stream: See above.
        tokens: Tokens so far.
        reason: Why it ended; None while it goes on.
    """

    __slots__ = ("_news", "asked", "reason", "stream", "tokens")

    def __init__(self, asked: Asked, *, stream: bool) -> None:
        self.asked = asked
        self.stream = stream
        self.tokens = 0
        self.reason: dict[str, Any] | None = None
        self._news = asyncio.Event()

    def reach(self, tokens: int) -> None:
        """So many tokens are there."""
        self.tokens = tokens
        self._news.set()

    def end(self, reason: dict[str, Any]) -> None:
        """It goes no further."""
        if self.reason is None:
            self.reason = reason
            self._news.set()

    async def news(self) -> None:
        """Wait until there is something that was not told yet."""
        await self._news.wait()
        self._news.clear()


class Role(Protocol):
    """What a server asks of the role that it has."""

    def submit(self, asked: Asked, *, stream: bool) -> Progress:
        """Take a prompt."""
        ...

    def abort(self, rid: str, reason: dict[str, Any]) -> None:
        """Give up a request, if it is there."""
        ...

    def rids(self) -> list[str]:
        """Ids of all requests."""
        ...

    def state(self) -> InstanceState:
        """What it is at work on."""
        ...


class _Requests:
    """Requests of a role, by id, by job and by room."""

    def __init__(self) -> None:
        self._numbers = itertools.count()
        self.seen: dict[int, SeenRequest] = {}
        self.progress: dict[int, Progress] = {}
        self.by_rid: dict[str, int] = {}

    def make_job(self, asked: Asked, now_s: float) -> Job:
        return Job(next(self._numbers), now_s, asked.prompt_tokens, asked.output_tokens)

    def add(self, job: Job, seen: SeenRequest, progress: Progress) -> None:
        self.seen[job.index] = seen
        self.progress[job.index] = progress
        self.by_rid[seen.rid] = job.index

    def remove(self, job: Job) -> Progress | None:
        seen = self.seen.pop(job.index, None)
        if seen is not None and self.by_rid.get(seen.rid) == job.index:
            del self.by_rid[seen.rid]
        return self.progress.pop(job.index, None)


class Prefill:
    """Computes prompts, and tells in their rooms when they are done.

    Args:
        engine: What computes.
        ring: Where it is measured.
    """

    def __init__(self, engine: Engine, ring: RingWriter) -> None:
        self.door = Door()
        self._engine = engine
        self._requests = _Requests()
        self._instance = prefill_instance(engine, take_up=lambda _job: None, hand_on=self._hand_on)
        self.observer = engine.runner.observer = SeenPrefill(
            ring, self._instance, self._requests.seen
        )
        engine.run(self._instance.revise)

    def submit(self, asked: Asked, *, stream: bool) -> Progress:
        """See `Role.submit`."""
        now_s = self._engine.events.catch_up()
        requests, progress = self._requests, Progress(asked, stream=stream)
        job = requests.make_job(asked, now_s)
        requests.add(job, SeenRequest(asked.rid, asked.room, job, lambda _job: 0), progress)
        self._instance.enqueue(job, now_s)
        return progress

    def abort(self, rid: str, reason: dict[str, Any]) -> None:
        """See `Role.abort`: what is being computed is computed to its end, and told to nobody."""
        index = self._requests.by_rid.pop(rid, None)
        if index is None:
            return
        self._engine.events.catch_up()
        seen, progress = self._requests.seen[index], self._requests.progress.pop(index)
        progress.end(reason)
        if seen.bootstrap_room is not None:
            self.door.failed(seen.bootstrap_room, reason["message"])
        if self._instance.drop(seen.job):
            self._requests.remove(seen.job)

    def rids(self) -> list[str]:
        """See `Role.rids`."""
        return list(self._requests.by_rid)

    def state(self) -> InstanceState:
        """See `Role.state`."""
        return self._instance.state()

    def _hand_on(self, job: Job, now_s: float) -> None:
        seen = self._requests.seen[job.index]
        progress = self._requests.remove(job)
        if progress is None:
            return  # given up meanwhile
        if seen.bootstrap_room is not None:
            self.door.done(seen.bootstrap_room, now_s)
        progress.reach(1)
        progress.end(length_reason(1))


class Decode:
    """Produces tokens of prompts that were computed elsewhere.

    Args:
        engine: What computes.
        ring: Where it is measured.
        interval: Tokens after which a stream is told again (``--stream-interval``).
    """

    def __init__(self, engine: Engine, ring: RingWriter, interval: int) -> None:
        self.corridor = Corridor(self._prefilled, self._not_prefilled)
        self._engine = engine
        self._requests = _Requests()
        self._interval = interval
        self._expected: dict[int, Job] = {}
        self._asking: set[asyncio.Task[None]] = set()
        self._instance = decode_instance(engine, complete=self._complete, deliver=self._deliver)
        self.observer = _Telling(ring, self)
        engine.runner.observer = self.observer
        engine.run(self._instance.revise)

    def submit(self, asked: Asked, *, stream: bool) -> Progress:
        """See `Role.submit`."""
        now_s = self._engine.events.catch_up()
        requests, progress = self._requests, Progress(asked, stream=stream)
        job = requests.make_job(asked, now_s)
        seen = SeenRequest(asked.rid, asked.room, job, self._instance.produced)
        requests.add(job, seen, progress)
        if asked.room is None:  # as SGLang's fake transfer: a half that is measured alone
            self._engine.events.schedule(now_s, lambda at_s: self._instance.arrive(job, at_s))
        else:
            self._expected[asked.room] = job
            asking = asyncio.get_running_loop().create_task(
                self.corridor.ask(asked.bootstrap, asked.room)
            )
            self._asking.add(asking)
            asking.add_done_callback(self._asking.discard)
        return progress

    def abort(self, rid: str, reason: dict[str, Any]) -> None:
        """See `Role.abort`."""
        index = self._requests.by_rid.pop(rid, None)
        if index is None:
            return
        now_s = self._engine.events.catch_up()
        seen = self._requests.seen[index]
        self._requests.progress[index].end(reason)
        room = seen.bootstrap_room
        if room is not None and self._expected.pop(room, None) is not None:
            self.corridor.forget(room)
            self._requests.remove(seen.job)
        else:
            self._instance.drop(seen.job, now_s)

    def rids(self) -> list[str]:
        """See `Role.rids`."""
        return list(self._requests.by_rid)

    def state(self) -> InstanceState:
        """See `Role.state`."""
        return self._instance.state()

    @property
    def instance(self) -> Any:
        """The plant's instance."""
        return self._instance

    @property
    def seen(self) -> dict[int, SeenRequest]:
        """Requests by the index of their job."""
        return self._requests.seen

    def tell(self) -> None:
        """Tell streams of the tokens that an iteration has produced, in the engine's interval."""
        every, produced = self._interval, self._instance.produced
        first = 0 if every == 1 else 1
        for job in self._instance.running:
            progress = self._requests.progress[job.index]
            tokens = produced(job) + 1
            if progress.stream and tokens % every == first and progress.reason is None:
                progress.reach(tokens)

    def _prefilled(self, room: int, at_s: float) -> None:
        job = self._expected.pop(room, None)
        if job is None:
            return
        now_s = self._engine.events.catch_up()
        self._engine.events.schedule(
            max(at_s, now_s), lambda arrived_s: self._instance.arrive(job, arrived_s)
        )

    def _not_prefilled(self, room: int, why: str) -> None:
        job = self._expected.pop(room, None)
        progress = None if job is None else self._requests.remove(job)
        if progress is not None:
            progress.end(abort_reason(why, 500))

    def _deliver(self, job: Job, _batch: Load, _now_s: float) -> None:
        self._requests.progress[job.index].reach(1)

    def _complete(self, job: Job, _now_s: float) -> None:
        seen = self._requests.seen[job.index]
        progress = self._requests.remove(job)
        assert progress is not None
        seen.end(job.output_tokens, aborted=progress.reason is not None)
        self.observer.ended()
        progress.reach(job.output_tokens)
        progress.end(length_reason(job.output_tokens))


class _Telling(SeenDecode):
    """The observer of a decode engine, which also tells clients."""

    def __init__(self, ring: RingWriter, role: Decode) -> None:
        super().__init__(ring, role.instance, role.seen)
        self._role = role

    def finished(self, now_s: float) -> None:
        """See `voltana.rehearsal.live_runner.Observer.finished`."""
        super().finished(now_s)
        self._role.tell()
