"""Measures iterations: what each one computes, when it was launched, and how long it took."""

from __future__ import annotations

import logging
import time
from collections import deque
from typing import TYPE_CHECKING, Any

from voltana_ring.hooks.queue_view import earlier
from voltana_ring.hooks.records import IDLE_EVERY_S, WORD, Launched, Records, idling
from voltana_ring.layout import MAX_ENTRIES, Flag, Kind, Mode
from voltana_sglang.hooks.batch_view import DECODE_MODES, PREFILL_MODES, BatchView
from voltana_sglang.hooks.cached import CachedTokens
from voltana_sglang.hooks.followed import Followed
from voltana_sglang.hooks.queue_view import QueueReader, oldest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from voltana_ring.hooks.queue_view import QueueView
    from voltana_ring.writer import RingWriter
    from voltana_sglang.hooks.device_times import DeviceTimes

_NAN = float("nan")
_log = logging.getLogger("sglang.voltana")


class Meter:
    """Measures one scheduler; not thread-safe, as the scheduler is not.

    Latency is the time on the device: from the launch, or from the end of the iteration before
    where that was later, to the end (under overlap the next batch is launched while one runs).

    Args:
        scheduler: The scheduler.
        ring: Where records go.
        mode: ``null``, ``prefill`` or ``decode``: its part of a disaggregated pair.
        speculative: Whether an iteration may produce more than one token a request.
        pipelined: Whether results come in another object than run_batch returned, in order.
        follows: Whether to tell what became of requests.
        modes: SGLang's forward modes by number.
        synchronous: Whether the device computes in run_batch itself, as a CPU does.
        synchronize: Waits for the device where a result does not say when it is ready.
        device: Tells when an iteration has ended that the host looks at too late; None without.
        now_s: The monotonic clock.

    Attributes:
        iterations: Iterations that were launched.
        finished: Iterations whose latency was measured.
        errors: Errors so far; the hooks count them.
    """

    def __init__(
        self,
        scheduler: Any,
        ring: RingWriter,
        *,
        mode: str,
        speculative: bool = False,
        pipelined: bool = False,
        follows: bool = True,
        modes: dict[int, str],
        synchronous: bool = False,
        synchronize: Callable[[], None] | None = None,
        device: DeviceTimes | None = None,
        now_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._scheduler = scheduler
        self._records = Records(ring)
        self._batch = BatchView(speculative=speculative)
        self._cached = CachedTokens(scheduler)
        self._queue = QueueReader(scheduler, mode, self._cached)
        self._flags = int(Flag.SPECULATIVE) if speculative else 0
        self._decode = frozenset(n for n, name in modes.items() if name in DECODE_MODES)
        self._idle_modes = frozenset(n for n, name in modes.items() if name == "IDLE")
        self._rests, self._is_done = False, True
        self._prefill = frozenset(n for n, name in modes.items() if name in PREFILL_MODES)
        # A pipeline takes turns among its batches, so that none is the one before.
        self._tells = follows and not pipelined
        self._followed = Followed(tells=self._tells)
        self._tokens_s = _NAN
        self._has_rooms = mode != "null"
        self._names_waiting = mode != "decode"
        self._in_order: deque[Launched] | None = deque(maxlen=64) if pipelined else None
        self._synchronous = synchronous
        self._synchronize = synchronize
        self._device = device
        self._now_s = now_s
        self._ready_s = 0.0
        self._idle_s = 0.0
        self.iterations = 0
        self.finished = 0
        self.errors = 0

    def launch(self, batch: Any) -> Launched | None:
        """Note that a batch is about to run; None if it is none that computes."""
        view, mode = self._batch, batch.forward_mode
        entries: list[float] = []
        new: Iterable[Any] = ()
        done: Sequence[Any] = ()
        launch_s = self._now_s()
        if self._rests and (mode in self._decode or mode in self._prefill):
            self._write_idle(launch_s)
        if mode in self._decode:
            view.read_decode(batch)
            queue = self._queue.read(detailed=False)
            oldest_s = queue.oldest_s
            if view.changed:
                new = self._followed.batch(batch.reqs, launch_s, self._tokens_s)
        elif mode in self._prefill:
            view.read_prefill(batch)
            queue, oldest_s, entries = self._behind_prefill(batch)
            unfinished = getattr(self._scheduler, "chunked_req", None)
            self._cached.learn(batch, unfinished)
            new, done = self._prompts(batch, unfinished, launch_s)
        else:
            view.forget()
            self._rests = self._rests or (mode in self._idle_modes and self._is_done)
            return None
        self.iterations += 1
        self._idle_s = 0.0
        self._is_done = False
        flags = self._flags | (Flag.CUT if queue.requests > MAX_ENTRIES else 0)
        launched = Launched(
            view.mode,
            flags,
            self.iterations,
            (view.prefill_tokens, view.attended_pairs, view.decode_requests, view.kv_tokens),
            (queue.requests, queue.tokens, oldest_s),
            launch_s,
            done=done,
        )
        if self._followed.changes:
            self._write_changes(launched, launch_s)
        rooms = self._rooms(new)
        self._records.write(Kind.LAUNCHED, launched, launch_s, _NAN, _NAN, entries, rooms)
        if self._in_order is not None:
            self._in_order.append(launched)
        return launched

    def _prompts(
        self, batch: Any, unfinished: Any, launch_s: float
    ) -> tuple[Iterable[Any], Sequence[Any]]:
        """Requests that are new, and those that will have their first token with this batch."""
        running = batch.reqs
        if batch.decoding_reqs:
            running = running[: len(running) - len(batch.decoding_reqs)]
        part = unfinished if any(request is unfinished for request in running) else None
        waiting = self._queue.waiting if self._names_waiting else ()
        new = self._followed.prompts(running, waiting, launch_s, unfinished=part)
        # What was retracted is computed again.
        if not self._tells:
            return new, ()
        return new, [r for r in running if r is not part and not r.output_ids]

    def _rooms(self, new: Iterable[Any]) -> Sequence[int]:
        """Bootstrap rooms of requests that are reported for the first time."""
        if not new or not self._has_rooms:
            return ()
        return [room & WORD for request in new if (room := request.bootstrap_room) is not None]

    def returned(self, launched: Launched) -> Launched:
        """Note that run_batch came back: where it computes itself, the result is there."""
        if self._synchronous:
            return launched._replace(returned_s=self._now_s())
        return launched if self._device is None else launched._replace(end=self._marked())

    def finish(self, batch: Any, result: Any, launched: Launched | None) -> None:
        """Note that the result of a batch is there; waits for the device if need be."""
        if self._in_order is not None:
            launched = self._next_in_order(batch)
        if launched is None:
            return
        ended_s = launched.returned_s if launched.end is None else self._ended_s(launched.end)
        at_s = ready_s = self._ready(result)
        began_s = max(launched.launch_s, self._ready_s)
        if ended_s > 0.0:  # not nan
            ready_s = max(ended_s, began_s)
        latency_s = ready_s - began_s
        self._ready_s = ready_s
        self._is_done = launched.iteration == self.iterations
        self.finished += 1
        self._note_tokens(launched, batch, at_s)
        self._records.write(Kind.FINISHED, launched, at_s, ready_s, latency_s, [], ())

    def idle(self) -> None:
        """Note that nothing runs; cheap when it is called over and over."""
        now_s = self._now_s()
        if now_s - self._idle_s < IDLE_EVERY_S:
            return
        self._write_idle(now_s)

    def _write_idle(self, now_s: float) -> None:
        """Say that nothing runs, or has run until now.

        A rank whose batch is empty while others compute is not told to idle by its engine.
        """
        self._idle_s, self._rests = now_s, False
        self._batch.forget()
        queue = self._queue.read(detailed=False)
        followed = self._followed
        followed.idle(self._scheduler.waiting_queue, now_s, self._tokens_s)
        new: Iterable[Any] = ()
        if self._names_waiting:
            new = followed.prompts((), self._queue.waiting, now_s)
        waiting = queue.requests, queue.tokens, queue.oldest_s
        nothing = idling(self._flags, self.iterations, waiting, now_s)
        if followed.changes:
            self._write_changes(nothing, now_s)
        self._records.write(Kind.IDLE, nothing, now_s, _NAN, _NAN, [], self._rooms(new))

    def close(self) -> None:
        """Measure no more, and remove the ring."""
        self._records.close()

    def _note_tokens(self, launched: Launched, batch: Any, at_s: float) -> None:
        """Note first tokens, and when decoding requests had their last one so far.

        A client cannot have a token before the host has looked at it, however early the device was.
        Under overlap a batch is launched once more for requests that have ended meanwhile.
        """
        if not self._tells:
            return
        if launched.mode != Mode.PREFILL and any(
            request.finished_reason is None for request in batch.reqs
        ):
            self._tokens_s = at_s
        if launched.done:
            self._followed.first_tokens(launched.done, at_s)
            self._write_changes(launched, at_s)

    def _marked(self) -> Any:
        """An event at the end of what was launched; None where the device does not give one."""
        try:
            return None if self._device is None else self._device.mark()
        except Exception as error:  # noqa: BLE001  (whatever a device's library raises)
            return self._without_events(error)

    def _ended_s(self, end: Any) -> float:
        """When an event came, if it has by now; else nan."""
        try:
            return _NAN if self._device is None else self._device.ended_s(end)
        except Exception as error:  # noqa: BLE001
            self._without_events(error)
            return _NAN

    def _without_events(self, error: Exception) -> None:
        """Go on by the host's clock, which is there as well."""
        self._device = None
        _log.warning("voltana: iterations are timed by the host alone: %r", error)

    def _ready(self, result: Any) -> float:
        """The time at which a result is there; waits for it."""
        done = getattr(result, "copy_done", None)
        if done is not None:
            done.synchronize()
        elif self._synchronize is not None:
            self._synchronize()
        return self._now_s()

    def _behind_prefill(self, batch: Any) -> tuple[QueueView, float, list[float]]:
        """The queue, the oldest arrival with the batch's own, and the entries."""
        queue = self._queue.read(detailed=True)
        oldest_s = oldest(batch.reqs)
        oldest_s = earlier(oldest_s, queue.oldest_s)
        entries = queue.entries
        rest = self._rest_of_chunk(batch)
        if rest is not None:
            arrived_s, left, done = rest
            queue = queue._replace(requests=queue.requests + 1, tokens=queue.tokens + left)
            # What is left of a prompt is computed before anything else.
            entries = [arrived_s, left, done, *entries[: 3 * (MAX_ENTRIES - 1)]]
        return queue, oldest_s, entries

    def _rest_of_chunk(self, batch: Any) -> tuple[float, int, int] | None:
        """Arrival, tokens left and tokens done of a prompt that this batch only begins."""
        request = getattr(self._scheduler, "chunked_req", None)
        if request is None:
            return None
        for row, candidate in enumerate(batch.reqs):
            if candidate is request:
                done = batch.prefix_lens[row] + batch.extend_lens[row]
                left = len(request.origin_input_ids) + len(request.output_ids) - done
                return (oldest((request,)), left, done) if left > 0 else None
        return None

    def _next_in_order(self, batch: Any) -> Launched | None:
        mode = batch.forward_mode
        if (mode in self._decode or mode in self._prefill) and self._in_order:
            return self._in_order.popleft()
        return None

    def _write_changes(self, launched: Launched, at_s: float) -> None:
        """Write what became of requests before the record that it belongs to."""
        changes, self._followed.changes = self._followed.changes, []
        self._records.write_changes(launched, changes, at_s)
