"""A router before real servers, and what it answers."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import time
import urllib.error
from typing import TYPE_CHECKING, Any

from vllm_server import START_TIMEOUT_S, ask

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@contextlib.contextmanager
def router_before(port: int, log: Path, **servers: str) -> Iterator[str]:
    """The address of a router that is ready; it ends with the block.

    Args:
        port: Where it listens.
        log: Where it writes.
        servers: An URL by its role: ``prefill``, ``decode`` or ``unified``.
    """
    command = [sys.executable, "-m", "voltana_vllm", "router", "--port", str(port)]
    for role, server in servers.items():
        command += [f"--{role}", server]
    url = f"http://127.0.0.1:{port}"
    with log.open("wb") as out:
        process = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT)
    try:
        ends_s = time.monotonic() + START_TIMEOUT_S
        while not _answers(url):
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < ends_s, log.read_text()
            time.sleep(0.2)
        yield url
    finally:
        process.terminate()
        process.wait(60)


def streamed(raw: bytes) -> list[int]:
    """Tokens of a stream."""
    parts = [part for part in raw.decode().split("\n\n") if part]
    assert parts[-1] == "data: [DONE]"
    events = [json.loads(part.removeprefix("data: ")) for part in parts[:-1]]
    return [t for event in events for c in event["choices"] for t in c.get("token_ids") or ()]


def tokens_of(answer: Any) -> list[int]:
    """Tokens of an answer to one prompt."""
    return list(answer["choices"][0]["token_ids"])


def _answers(url: str) -> bool:
    try:
        ask(url + "/health", timeout_s=5)
    except (urllib.error.URLError, OSError):
        return False
    return True
