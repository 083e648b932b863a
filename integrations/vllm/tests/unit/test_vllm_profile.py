"""A live vLLM server as a calibration knows it."""

from __future__ import annotations

import http.server
import json
import threading

import pytest

from voltana.errors import ConfigError
from voltana.serving.profile.design import Point
from voltana.serving.profile.run import DECODE_STEPS, ProfileRunError
from voltana.serving.router.keys import Keys
from voltana.values import Phase
from voltana_vllm.dialect.keys import KEY_NAMES
from voltana_vllm.dialect.profiled_server import PREFILL_REPEATS, VllmServer

METRICS = """
vllm:cache_config_info{block_size="16",engine="0",num_gpu_blocks="500"} 1.0
vllm:cache_config_info{block_size="16",engine="1",num_gpu_blocks="500"} 1.0
"""


class Server(http.server.ThreadingHTTPServer):
    """Answers as vLLM does; what it says can be changed."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.says = {
            "/version": {"version": "0.32.0"},
            "/v1/models": {"data": [{"id": "tiny", "max_model_len": 1024}]},
            "/metrics": METRICS,
        }
        self.key, self.bodies = "", []
        self.url = f"http://127.0.0.1:{self.server_port}"
        threading.Thread(target=self.serve_forever, daemon=True).start()


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def do_GET(self):
        guarded = self.server.key and self.path.startswith("/v1")
        if guarded and self.headers.get("Authorization") != f"Bearer {self.server.key}":
            self.send_error(401)
        else:
            self._answer(self.server.says[self.path])

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.bodies.append(body)
        self._answer({"choices": []})

    def log_message(self, *_):
        pass

    def _answer(self, says):
        self.send_response(200)
        self.end_headers()
        self.wfile.write((says if isinstance(says, str) else json.dumps(says)).encode())


@pytest.fixture
def server():
    made = Server()
    yield made
    made.shutdown()
    made.server_close()


def test_a_server_is_asked_for_its_limits_of_all_its_engines(server):
    about = VllmServer(server.url + "/").about
    assert (about.model, about.version, about.role) == ("tiny", "0.32.0", "unified")
    assert about.limits.max_tokens == int(0.9 * 2 * 500 * 16)
    assert about.limits.max_context == 1024 - DECODE_STEPS - 1


def test_points_are_prompts_of_their_own_that_no_end_of_text_cuts_short(server):
    profiled = VllmServer(server.url, seed=3)
    for phase, times, tokens in (
        (Phase.DECODE, 1, DECODE_STEPS),
        (Phase.PREFILL, PREFILL_REPEATS, 1),
    ):
        server.bodies.clear()
        profiled.run(Point(phase=phase, requests=3, prompt_tokens=40, clock_mhz=1410.0))
        assert len(server.bodies) == times
        prompts = [tuple(prompt) for body in server.bodies for prompt in body["prompt"]]
        assert len(set(prompts)) == 3 * times  # none is in the prefix cache
        assert {len(prompt) for prompt in prompts} == {40}
        for body in server.bodies:
            assert (body["max_tokens"], body["ignore_eos"], body["model"]) == (tokens, True, "tiny")


def test_a_key_is_sent_and_one_that_is_missing_is_named(server):
    server.key = "secret"
    assert VllmServer(server.url, keys=Keys(api="secret", names=KEY_NAMES)).about.model == "tiny"
    with pytest.raises(ProfileRunError, match="VOLTANA_VLLM_API_KEY"):
        VllmServer(server.url)


@pytest.mark.parametrize(
    ("path", "says", "said"),
    [
        ("/version", "hello", "answers as no vLLM server does: must be one"),
        ("/v1/models", {"data": []}, "answers as no vLLM server does: must be one"),
        ("/metrics", "# nothing", "without --disable-log-stats"),
    ],
)
def test_what_is_no_such_server_is_told_with_the_remedy(server, path, says, said):
    server.says[path] = says
    with pytest.raises(ProfileRunError, match=said):
        VllmServer(server.url)


def test_an_address_that_is_none_or_does_not_answer_is_told(server):
    with pytest.raises(ConfigError, match="an http or https URL"):
        VllmServer("localhost:8000")
    server.server_close()
    with pytest.raises(ProfileRunError, match="Start the server first"):
        VllmServer("http://127.0.0.1:9")
