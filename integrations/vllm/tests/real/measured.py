"""What a server measured: the plugin's ring beside vLLM's own iteration details and counters."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import threading
import time
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from voltana.serving.ring_reader import RingReader, find_rings
from voltana_ring.layout import Kind

if TYPE_CHECKING:
    from voltana.serving.ring_records import Record

DETAILS = re.compile(
    r"Iteration\((\d+)\): (\d+) context requests, (\d+) context tokens, (\d+) generation "
    r"requests, (\d+) generation tokens, iteration elapsed time: ([\d.]+) ms(?! \(dummy\))"
)

TIMEOUT_S = 60.0


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
    """Reads a ring of an instance, in a thread, so that nothing is overwritten unread.

    Args:
        folder: Of the rings.
        instance: Their instance.
        rank: Of its data-parallel engines.
    """

    def __init__(self, folder: Path, instance: str, rank: int = 0) -> None:
        ends_s = time.monotonic() + TIMEOUT_S
        while len(found := sorted(find_rings(folder, instance))) <= rank:
            assert time.monotonic() < ends_s, f"no ring {rank} of {instance}"
            time.sleep(0.1)
        self.reader = RingReader(found[rank])
        self._records: deque[Record] = deque()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._drain, daemon=True)
        self._thread.start()

    def taken(self) -> list[Record]:
        """What has come since the last call, all of it."""
        assert self.reader.lost == self.reader.torn == 0
        return [self._records.popleft() for _ in range(len(self._records))]

    def close(self) -> None:
        """Read no more."""
        self._stop.set()
        self._thread.join()
        self.reader.close()

    def _drain(self) -> None:
        while not self._stop.wait(0.02):
            self._records.extend(self.reader.drain())


def load(url: str, **arguments: int) -> None:
    """Send requests from another process; see `load_client`."""
    program = Path(__file__).with_name("load_client.py")
    subprocess.run([sys.executable, str(program), url, json.dumps(arguments)], check=True)


def finished(records: list[Record]) -> list[Record]:
    """Iterations that ended."""
    return [record for record in records if record.kind is Kind.FINISHED]


def counter(text: str, name: str) -> float:
    """A counter of a metrics page, all its labels together."""
    return sum(
        float(value)
        for value in re.findall(rf"^{re.escape(name)}(?:\{{[^}}]*\}})? (\S+)$", text, re.MULTILINE)
    )
