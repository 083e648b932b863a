"""A closed loop of clients against an SGLang endpoint."""

from __future__ import annotations

import asyncio
import secrets
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import aiohttp
import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

VOCABULARY = 500

FAKED_TRANSFER = "2.2.2.2"
"""Prefill host for which a decode server makes up the KV cache."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """Where requests go.

    Attributes:
        name: For the table.
        urls: One, or a prefill and a decode server that the client itself addresses as a pair.
        bootstrap_host: Of the prefill server, for a pair; or `FAKED_TRANSFER`.
        bootstrap_port: Likewise.
    """

    name: str
    urls: tuple[str, ...]
    bootstrap_host: str | None = None
    bootstrap_port: int = 8998


@dataclass(slots=True, kw_only=True)
class Run:
    """What one run measured.

    Attributes:
        seconds: From the first request to the last answer.
        latency_s: One value a request.
        outside_s: Part of it that was not spent in the engine that answered, likewise.
        tokens: Tokens produced.
    """

    seconds: float = 0.0
    latency_s: list[float] = field(default_factory=list)
    outside_s: list[float] = field(default_factory=list)
    tokens: int = 0

    @property
    def requests_per_s(self) -> float:
        """Answers per second."""
        return len(self.latency_s) / self.seconds

    @property
    def tokens_per_s(self) -> float:
        """Tokens per second."""
        return self.tokens / self.seconds


def prompts(count: int, tokens: int, seed: int) -> list[list[int]]:
    """Prompts of random token ids, so that no cache knows them."""
    rng = np.random.default_rng(seed)
    return [rng.integers(3, VOCABULARY, tokens).tolist() for _ in range(count)]


def drive(
    target: Target, inputs: Sequence[list[int]], *, concurrency: int, output_tokens: int
) -> Run:
    """Send all prompts, `concurrency` at a time; every answer must have all its tokens."""
    return asyncio.run(_drive(target, inputs, concurrency, output_tokens))


async def _drive(
    target: Target, inputs: Sequence[list[int]], concurrency: int, output_tokens: int
) -> Run:
    run, waiting = Run(), list(inputs)
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector) as session:

        async def client() -> None:
            while waiting:
                body = _body(target, waiting.pop(), output_tokens)
                started_s = time.perf_counter()
                engine_s = await _ask(session, target, body, output_tokens)
                run.latency_s.append(time.perf_counter() - started_s)
                run.outside_s.append(run.latency_s[-1] - engine_s)
                run.tokens += output_tokens

        started_s = time.perf_counter()
        await asyncio.gather(*(client() for _ in range(concurrency)))
        run.seconds = time.perf_counter() - started_s
    return run


def arrive(
    target: Target, inputs: Sequence[list[int]], at_s: Sequence[float], output_tokens: Sequence[int]
) -> Run:
    """Send each prompt at its time, whatever the others do; every answer must have its tokens."""
    return asyncio.run(_arrive(target, inputs, at_s, output_tokens))


async def _arrive(
    target: Target, inputs: Sequence[list[int]], at_s: Sequence[float], output_tokens: Sequence[int]
) -> Run:
    run = Run()
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector) as session:
        started_s = time.perf_counter()

        async def send(ids: list[int], when_s: float, tokens: int) -> None:
            await asyncio.sleep(started_s + when_s - time.perf_counter())
            sent_s = time.perf_counter()
            engine_s = await _ask(session, target, _body(target, ids, tokens), tokens)
            run.latency_s.append(time.perf_counter() - sent_s)
            run.outside_s.append(run.latency_s[-1] - engine_s)
            run.tokens += tokens

        await asyncio.gather(*map(send, inputs, at_s, output_tokens))
        run.seconds = time.perf_counter() - started_s
    return run


def _body(target: Target, ids: list[int], output_tokens: int) -> dict[str, Any]:
    sampling = {"temperature": 0.0, "max_new_tokens": output_tokens, "ignore_eos": True}
    body: dict[str, Any] = {"input_ids": ids, "sampling_params": sampling}
    if target.bootstrap_host is not None:
        body |= {
            "bootstrap_host": target.bootstrap_host,
            "bootstrap_port": target.bootstrap_port,
            "bootstrap_room": secrets.randbelow(2**63 - 1),
        }
    return body


async def _ask(
    session: aiohttp.ClientSession, target: Target, body: dict[str, Any], output_tokens: int
) -> float:
    """Seconds that the request spent in the engine that answered, by its own account."""
    answers = await asyncio.gather(*(_post(session, url, body) for url in target.urls))
    got = len(answers[-1]["output_ids"])
    if got != output_tokens:
        raise RuntimeError(f"{target.name}: {got} tokens, {output_tokens} expected")
    return float(answers[-1]["meta_info"]["e2e_latency"])


async def _post(session: aiohttp.ClientSession, url: str, body: dict[str, Any]) -> Any:
    async with session.post(f"{url}/generate", json=body) as reply:
        reply.raise_for_status()
        return await reply.json()
