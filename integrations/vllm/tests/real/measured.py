"""What a server measured: the plugin's ring beside vLLM's own iteration details and counters."""

from __future__ import annotations

import json
import re
import threading
import time
import urllib.request
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from vllm_server import greedy, prompt_of
from voltana.serving.ring_reader import RingReader, find_rings
from voltana_ring.layout import Kind

if TYPE_CHECKING:
    from pathlib import Path

    from voltana.serving.ring_reader import Record

DETAILS = re.compile(
    r"Iteration\((\d+)\): (\d+) context requests, (\d+) context tokens, (\d+) generation "
    r"requests, (\d+) generation tokens, iteration elapsed time: ([\d.]+) ms(?! \(dummy\))"
)


@dataclass(frozen=True)
class Details:
    """One iteration as vLLM logs it."""

    index: int
    prompts: int
    prompt_tokens: int
    decoding: int
    decode_tokens: int
    elapsed_s: float


def details_in(log: str) -> list[Details]:
    """All that a log tells."""
    return [Details(*map(int, found[:5]), float(found[5]) / 1e3) for found in DETAILS.findall(log)]


class Ring:
    """Reads the one ring of an instance, in a thread, so that nothing is overwritten unread."""

    def __init__(self, folder: Path, instance: str, *, timeout_s: float = 60.0) -> None:
        ends_s = time.monotonic() + timeout_s
        while not (found := list(find_rings(folder, instance))):
            assert time.monotonic() < ends_s, f"no ring of {instance}"
            time.sleep(0.1)
        self.reader = RingReader(found[0])
        self._records: deque[Record] = deque()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._drain, daemon=True)
        self._thread.start()

    def taken(self) -> list[Record]:
        """What has come since the last call."""
        return [self._records.popleft() for _ in range(len(self._records))]

    def close(self) -> None:
        """Read no more."""
        self._stop.set()
        self._thread.join()
        self.reader.close()

    def _drain(self) -> None:
        while not self._stop.wait(0.02):
            self._records.extend(self.reader.drain())


def load(url: str, requests: int, *, at_once: int, seed: int, tokens: int = 40) -> None:
    """Send requests of mixed lengths, streaming and not, a few of them twice."""

    def one(index: int) -> None:
        length = 20 + (seed * 7919 + index * 131) % 700
        prompt = prompt_of(length, seed=index // 2 if index % 5 == 0 else index)
        body = greedy(prompt, 5 + (index * 37) % tokens, stream=index % 3 == 0)
        post(url + "/v1/completions", body)

    with ThreadPoolExecutor(at_once) as pool:
        list(pool.map(one, range(requests)))


def post(url: str, body: Any, **headers: str) -> bytes:
    """What an address answers."""
    request = urllib.request.Request(
        url, data=json.dumps(body).encode(), headers={"Content-Type": "application/json"} | headers
    )
    with urllib.request.urlopen(request, timeout=300) as reply:
        return bytes(reply.read())


def finished(records: list[Record]) -> list[Record]:
    """Iterations that ended."""
    return [record for record in records if record.kind is Kind.FINISHED]


def counter(text: str, name: str) -> float:
    """A counter of a metrics page, all its labels together."""
    return sum(
        float(value)
        for value in re.findall(rf"^{re.escape(name)}(?:\{{[^}}]*\}})? (\S+)$", text, re.MULTILINE)
    )
