"""A real server for both phases behind the router: its answers are the server's own."""

from __future__ import annotations

import subprocess
import sys
import time
from typing import TYPE_CHECKING

import numpy as np
import pytest

from load_client import post
from measured import Ring, finished
from routed import router_before, streamed, tokens_of
from vllm_server import VllmServer, ask, greedy, prompt_of
from voltana.predictors.ecopred import EcoPred
from voltana.values import Load

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PROMPTS = 20
TOKENS = 16
PORT = 23260
SETTLE_S = 2.0


@pytest.fixture(scope="module")
def server(model: Path, config: Path) -> Iterator[VllmServer]:
    """A server with the plugin, which schedules as vLLM does unless told otherwise."""
    own = {"VOLTANA_VLLM_CONFIG": str(config), "VOLTANA_VLLM_INSTANCE": "unified-0"}
    with VllmServer(model, PORT, config.with_name("unified-0.log"), (), own) as made:
        made.wait()
        yield made


@pytest.fixture(scope="module")
def router(server: VllmServer, config: Path) -> Iterator[str]:
    """The router before it."""
    with router_before(PORT + 1, config.with_name("router.log"), unified=server.url) as url:
        yield url


def test_greedy_tokens_are_the_servers_own_streaming_and_not(
    server: VllmServer, router: str, config: Path
) -> None:
    ring = Ring(config.with_name("rings"), "unified-0")
    time.sleep(SETTLE_S)
    ring.taken()
    answers = []
    for index in range(PROMPTS):
        prompt = prompt_of(30 + 37 * index, seed=index)
        alone = tokens_of(server.complete(prompt, TOKENS))
        routed = tokens_of(ask(router + "/v1/completions", greedy(prompt, TOKENS)))
        stream = streamed(post(router + "/v1/completions", greedy(prompt, TOKENS, stream=True)))
        assert routed == stream == alone, index
        assert len(alone) == TOKENS
        answers.append(tuple(alone))
    assert len(set(answers)) > PROMPTS // 2  # the model tells its prompts apart
    time.sleep(SETTLE_S)
    records = ring.taken()
    ring.close()
    # The plugin saw both ways alike: as many decoded tokens as were asked for behind the first.
    decoded = sum(record.load.decode_requests for record in finished(records))
    assert decoded >= 3 * PROMPTS * (TOKENS - 1)


def test_several_prompts_in_one_request_are_answered(server: VllmServer, router: str) -> None:
    prompts = [prompt_of(40, seed=1), prompt_of(90, seed=2)]
    body = greedy(prompts[0], TOKENS) | {"prompt": prompts}
    answer = ask(router + "/v1/completions", body)
    tokens = {choice["index"]: list(choice["token_ids"]) for choice in answer["choices"]}
    assert tokens == {i: tokens_of(server.complete(p, TOKENS)) for i, p in enumerate(prompts)}


def test_a_calibration_starts_a_predictor(server: VllmServer, config: Path) -> None:
    out = config.with_name("profile.json")
    command = [sys.executable, "-m", "voltana_vllm", "profile", server.url, "--visits", "1"]
    command += ["--instance", "unified-0", "--clock", "1410", "--out", str(out)]
    done = subprocess.run(
        [*command, "--config", str(config)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr + done.stdout
    sys.stdout.write(f"\n{done.stdout}")
    predictor = EcoPred.from_profile(out)
    for load in (Load.decode(32, 6000), Load.prefill([(300, 0)])):
        forecast = predictor.forecast(load, np.array([1410.0]))
        assert 0 < forecast.mean_s[0] <= forecast.upper_s[0] < np.inf
