"""Replays a trace through the router, and times it as its clients see it.

A request is timed from the moment at which the trace has it arrive, whether or not this process was
in time to send it: a machine that is too slow makes no latency disappear.
"""

from __future__ import annotations

import asyncio
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import aiohttp
import numpy as np

from voltana.plant.record import mean_itl_s
from voltana.serving.router.events import EVENT_END, Events

if TYPE_CHECKING:
    from collections.abc import Callable

    from voltana.plant.workload.trace import Trace
    from voltana.rehearsal.port import Rehearsed
    from voltana.values import FloatArray

_OK = 200


@dataclass(slots=True, kw_only=True, eq=False)
class Told:
    """One request as its client saw it; times are seconds from the start of the trace.

    Attributes:
        arrival_s: When it was to be sent.
        sent_s: When it was.
        first_s: When its first token came; inf where none did.
        last_s: When its last token came; inf where it did not.
        tokens: Tokens that came.
        error: What went wrong; empty if nothing did.
    """

    arrival_s: float
    sent_s: float = math.nan
    first_s: float = math.inf
    last_s: float = math.inf
    tokens: int = 0
    error: str = ""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Replayed:
    """All requests of a trace.

    Attributes:
        trace: The trace.
        told: What became of each request, in its order.
    """

    trace: Trace
    told: tuple[Told, ...]

    @property
    def ttft_s(self) -> FloatArray:
        """Time to first token, shape (requests,); inf where none came."""
        return self._first_s - self.trace.arrival_s

    @property
    def mean_itl_s(self) -> FloatArray:
        """Mean gap of each request of two tokens or more; inf where it did not end."""
        last_s = np.array([one.last_s for one in self.told])
        return mean_itl_s(self._first_s, last_s, self.trace.output_tokens)

    @property
    def end_s(self) -> float:
        """When the last answer that came ended."""
        return max((one.last_s for one in self.told if one.last_s < math.inf), default=0.0)

    @property
    def sent_late_s(self) -> float:
        """The most that this process was late in sending a request."""
        late = [one.sent_s - one.arrival_s for one in self.told if one.sent_s == one.sent_s]
        return max(late, default=0.0)

    @property
    def _first_s(self) -> FloatArray:
        return np.array([one.first_s for one in self.told])


async def replay(
    trace: Trace,
    url: str,
    dialect: Rehearsed,
    *,
    start_s: float,
    limit_s: float,
    progress: Callable[[int], None] = lambda _done: None,
) -> Replayed:
    """Send every request when it is due, and wait for all answers.

    Args:
        trace: What is sent.
        url: Of the router.
        dialect: What is spoken.
        start_s: When the trace starts, in the running loop's time.
        limit_s: How long an answer may take, in that time.
        progress: Called with the number of requests that have ended.
    """
    loop = asyncio.get_running_loop()
    told = tuple(Told(arrival_s=float(at_s)) for at_s in trace.arrival_s)
    lengths = zip(trace.prompt_tokens.tolist(), trace.output_tokens.tolist(), strict=True)
    timeout = aiohttp.ClientTimeout(total=limit_s)
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(timeout=timeout, connector=connector) as session:
        client = _Client(session, url, dialect, start_s)
        async with asyncio.TaskGroup() as group:
            for one, (prompt, output) in zip(told, lengths, strict=True):
                wait_s = start_s + one.arrival_s - loop.time()
                if wait_s > 0:
                    await asyncio.sleep(wait_s)
                asking = group.create_task(client.ask(one, prompt, output))
                asking.add_done_callback(lambda _task: progress(client.ended))
    return Replayed(trace=trace, told=told)


class _Client:
    """Asks the router.

    Args:
        session: What it asks by.
        url: Of the router.
        dialect: What is spoken.
        start_s: When the trace starts.

    Attributes:
        ended: Requests that have ended.
    """

    def __init__(
        self, session: aiohttp.ClientSession, url: str, dialect: Rehearsed, start_s: float
    ) -> None:
        self._session = session
        self._url = url + dialect.path
        self._dialect = dialect
        self._start_s = start_s
        self._loop = asyncio.get_running_loop()
        self.ended = 0

    async def ask(self, one: Told, prompt_tokens: int, output_tokens: int) -> None:
        """Send a request, and note what becomes of it."""
        body = self._dialect.body(prompt_tokens, output_tokens)
        one.sent_s = self._loop.time() - self._start_s
        try:
            await self._read(one, body)
            if one.tokens < output_tokens:
                one.error = f"{one.tokens} of {output_tokens} tokens came"
        except (aiohttp.ClientError, TimeoutError, ValueError) as error:
            one.error = f"{type(error).__name__}: {error}"
        if one.error:
            one.last_s = math.inf
        self.ended += 1

    async def _read(self, one: Told, body: bytes) -> None:
        """Read an answer, noting when its tokens come.

        Raises:
            aiohttp.ClientError: If the connection fails.
            ValueError: If the answer is an error.
        """
        events, headers = Events(), {"Content-Type": "application/json"}
        async with self._session.post(self._url, data=body, headers=headers) as response:
            if response.status != _OK:
                raise ValueError(f"status {response.status}: {(await response.text())[:200]}")
            async for chunk in response.content.iter_any():
                now_s = self._loop.time() - self._start_s
                *whole, _ = events.feed(chunk).split(EVENT_END)
                for event in whole:
                    tokens = self._dialect.tokens(event)
                    if tokens > one.tokens:
                        one.first_s = min(one.first_s, now_s)
                        one.tokens, one.last_s = tokens, now_s
