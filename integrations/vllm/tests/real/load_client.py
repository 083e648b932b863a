"""Sends requests to a server: ``load_client.py URL JSON``, with the arguments of `send` in JSON.

A process of its own, for what reads a ring beside it must not wait for the interpreter.
"""

from __future__ import annotations

import json
import sys
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from vllm_server import greedy, prompt_of


def send(url: str, requests: int, *, at_once: int, seed: int, tokens: int = 40) -> None:
    """Send requests of mixed lengths, streaming and not, a few of them twice."""

    def one(index: int) -> None:
        length = 20 + (seed * 7919 + index * 131) % 700
        prompt = prompt_of(length, seed=index // 2 if index % 5 == 0 else index)
        body = greedy(prompt, 5 + (index * 37) % tokens, stream=index % 3 == 0)
        post(url + "/v1/completions", body)

    with ThreadPoolExecutor(at_once) as pool:
        list(pool.map(one, range(requests)))


def send_alike(url: str, requests: int, *, runs: int, prompt: int, tokens: int) -> None:
    """Send batches of requests that begin and end together, one after the other."""
    with ThreadPoolExecutor(requests) as pool:
        for run in range(runs):
            bodies = [greedy(prompt_of(prompt, seed=run * requests + i), tokens)
                      for i in range(requests)]  # fmt: skip
            list(pool.map(lambda body: post(url + "/v1/completions", body), bodies))


def post(url: str, body: Any, **headers: str) -> bytes:
    """What an address answers."""
    request = urllib.request.Request(
        url, data=json.dumps(body).encode(), headers={"Content-Type": "application/json"} | headers
    )
    with urllib.request.urlopen(request, timeout=300) as reply:
        return bytes(reply.read())


if __name__ == "__main__":
    arguments = json.loads(sys.argv[2])
    (send_alike if "runs" in arguments else send)(sys.argv[1], **arguments)
