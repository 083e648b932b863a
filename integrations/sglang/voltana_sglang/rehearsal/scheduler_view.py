"""A virtual engine as the plugin's meter sees a scheduler: the real meter writes the real ring.

`voltana_sglang.hooks.meter.Meter` reads SGLang's scheduler, batches and requests. What it reads of
them is here, on top of the plant's instances; everything that the meter works out is its own.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from voltana_sglang.hooks.meter import Meter

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from voltana.plant.decode import DecodeInstance
    from voltana.plant.job import Job
    from voltana.plant.prefill import PrefillInstance
    from voltana_ring.writer import RingWriter

EXTEND, DECODE = 1, 2
MODES = {EXTEND: "EXTEND", DECODE: "DECODE"}

_RESULT = SimpleNamespace(copy_done=None)


class FINISH_ABORT:  # noqa: N801  (SGLang's name, by which the meter knows it)
    """The reason of a request that was given up."""


class FINISH_LENGTH:  # noqa: N801  (likewise)
    """The reason of one that has all its tokens."""


class SeenRequest:
    """A job as the meter sees a request; compared by identity, as SGLang's are.

    Args:
        rid: Its id.
        room: Its bootstrap room.
        job: The job.
        tokens: Output tokens that it has so far.

    Attributes:
        finished_reason: Why it ended; None while it has not.
    """

    __slots__ = (
        "_tokens",
        "bootstrap_room",
        "finished_reason",
        "job",
        "num_matched_prefix_tokens",
        "origin_input_ids",
        "rid",
        "time_stats",
    )

    def __init__(self, rid: str, room: int | None, job: Job, tokens: Callable[[Job], int]) -> None:
        self.rid = rid
        self.bootstrap_room = room
        self.job = job
        self.finished_reason: FINISH_ABORT | FINISH_LENGTH | None = None
        self.origin_input_ids = range(job.prompt_tokens)
        self.num_matched_prefix_tokens = 0
        self.time_stats = SimpleNamespace(scheduler_recv_time=job.arrival_s)
        self._tokens: Callable[[Job], int] | int = tokens

    @property
    def output_ids(self) -> range:
        """As many as there are."""
        tokens = self._tokens
        return range(tokens if isinstance(tokens, int) else tokens(self.job))

    def end(self, tokens: int, *, aborted: bool) -> None:
        """It has ended with so many tokens."""
        self._tokens = tokens
        self.finished_reason = FINISH_ABORT() if aborted else FINISH_LENGTH()


class _Total:
    """As much of a tensor of lengths as is asked of one: their sum."""

    def __init__(self, tokens: int) -> None:
        self._tokens = tokens

    def tolist(self) -> list[int]:
        return [self._tokens]


class _SeenScheduler:
    """What both roles have in common; satisfies `voltana.rehearsal.live_runner.Observer`.

    Args:
        mode: ``prefill`` or ``decode``.
        ring: Where records go.
        seen: Requests by the index of their job.
    """

    chunked_req: SeenRequest | None = None
    policy = None
    waiting_queue: Sequence[SeenRequest] = ()

    def __init__(self, mode: str, ring: RingWriter, seen: dict[int, SeenRequest]) -> None:
        self.disagg_prefill_bootstrap_queue = SimpleNamespace(queue=[])
        self.disagg_decode_prealloc_queue = SimpleNamespace(queue=[])
        self._seen = seen
        self._now_s = 0.0
        self._batch: Any = None
        self._launched: Any = None
        self._meter = Meter(self, ring, mode=mode, modes=MODES, now_s=lambda: self._now_s)

    def launched(self, now_s: float) -> None:
        """See `Observer.launched`."""
        self._now_s = now_s
        self._batch = self._look()
        self._launched = self._meter.launch(self._batch)

    def finished(self, now_s: float) -> None:
        """See `Observer.finished`."""
        self._now_s = now_s
        self._meter.finish(self._batch, _RESULT, self._launched)

    def idle(self, now_s: float) -> None:
        """See `Observer.idle`."""
        self._now_s = now_s
        self._look_around()
        self._meter.idle()

    def close(self) -> None:
        """Remove the ring."""
        self._meter.close()

    def _look(self) -> Any:
        """The batch that is launched."""
        raise NotImplementedError

    def _look_around(self) -> None:
        """See what waits."""


class SeenPrefill(_SeenScheduler):
    """A prefill instance.

    Args:
        ring: Where records go.
        instance: The instance.
        seen: Requests by the index of their job.
    """

    def __init__(
        self, ring: RingWriter, instance: PrefillInstance, seen: dict[int, SeenRequest]
    ) -> None:
        super().__init__("prefill", ring, seen)
        self._instance = instance
        self._done: dict[int, int] = {}

    def _look(self) -> Any:
        self._look_around()
        part = self.chunked_req
        jobs = [*self._instance.batch, *([] if part is None else [part.job])]
        old = [self._done.get(job.index, 0) for job in jobs]
        new = [job.prefilled_tokens - done for job, done in zip(jobs, old, strict=True)]
        self._done = {} if part is None else {part.job.index: part.job.prefilled_tokens}
        return SimpleNamespace(
            forward_mode=EXTEND,
            reqs=[self._seen[job.index] for job in jobs],
            extend_lens=new,
            prefix_lens=old,
            decoding_reqs=None,
        )

    def _look_around(self) -> None:
        waiting = [self._seen[job.index] for job in self._instance.waiting]
        self.chunked_req = None
        if waiting and waiting[0].job.prefilled_tokens:
            self.chunked_req = waiting.pop(0)
        self.waiting_queue = waiting


class SeenDecode(_SeenScheduler):
    """A decode instance.

    Args:
        ring: Where records go.
        instance: The instance.
        seen: Requests by the index of their job.
    """

    def __init__(
        self, ring: RingWriter, instance: DecodeInstance, seen: dict[int, SeenRequest]
    ) -> None:
        super().__init__("decode", ring, seen)
        self._instance = instance
        self._reqs: list[SeenRequest] = []
        self._ended = True

    def ended(self) -> None:
        """A job has left the batch."""
        self._ended = True

    def _look(self) -> Any:
        self._look_around()
        instance, seen = self._instance, self._seen
        running = instance.running
        if self._ended or len(running) != len(self._reqs):
            # A new list, for that is how the meter sees that the batch has changed.
            self._reqs = [seen[job.index] for job in running]
            self._ended = False
        return SimpleNamespace(
            forward_mode=DECODE,
            reqs=self._reqs,
            seq_lens_cpu=_Total(instance.state().kv_tokens),
        )

    def _look_around(self) -> None:
        self.disagg_decode_prealloc_queue.queue = [
            SimpleNamespace(req=self._seen[job.index], waiting_for_input=True)
            for job in self._instance.blocked
        ]
