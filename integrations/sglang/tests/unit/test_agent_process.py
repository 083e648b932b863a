from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request

import pytest
import structlog
import zmq
from fake_scheduler import FakeEngine

from voltana.serving.agent.service import Agent, AgentOptions
from voltana.serving.config import parse_config
from voltana.serving.feed_listeners import seek_feed
from voltana.serving.feed_message import MOST_BYTES, parse_message
from voltana.values import Load

CONFIG = """
[agent]
rings = "rings"
state = "state"
save_every_s = 1.0
[actuator]
kind = "simulated"
[engine]
table_mhz = [600, 900, 1005, 1200, 1410]
"""


class Process:
    def __init__(self, folder, *arguments, config=CONFIG):
        self.folder = folder
        (folder / "v.toml").write_text(config)
        self.log = folder / "agent.log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "voltana_sglang", "agent", "--config",
                 str(folder / "v.toml"), "--instance", "decode-0", *arguments],
                stdout=log, stderr=log,
            )  # fmt: skip

    def wait_served(self):
        ends_s = time.monotonic() + 60
        while True:
            said = self.log.read_text()
            if "agent serves" in said:
                line = next(x for x in said.splitlines() if "agent serves" in x)
                self.url = line.partition("control='")[2].partition("'")[0]
                self.feed = line.partition("feed='")[2].partition("'")[0]
                return self
            assert self.process.poll() is None, said
            assert time.monotonic() < ends_s, said
            time.sleep(0.05)

    def call(self, path, body=None, headers=None, method=None):
        data = None if body is None else json.dumps(body).encode()
        usual = {"Content-Type": "application/json"} if body is not None else {}
        usual["Authorization"] = f"Bearer {os.environ['VOLTANA_ADMIN_TOKEN']}"
        request = urllib.request.Request(
            self.url + path,
            data,
            usual | (headers or {}),
            method=method or ("PUT" if body is not None else "GET"),
        )
        try:
            with urllib.request.urlopen(request, timeout=10) as reply:
                return reply.status, reply.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    def get(self, path):
        status, body = self.call(path)
        assert status == 200, body
        return json.loads(body)

    def wait_for(self, what, timeout_s=60.0):
        ends_s = time.monotonic() + timeout_s
        while not what():
            assert time.monotonic() < ends_s, self.log.read_text()
            time.sleep(0.05)

    def end(self):
        self.process.terminate()
        return self.process.wait(60)


@pytest.fixture
def agent(tmp_path):
    made = Process(tmp_path).wait_served()
    yield made
    if made.process.poll() is None:
        made.end()


@pytest.fixture
def engine(tmp_path):
    made = FakeEngine(tmp_path / "rings", "decode-0", time.monotonic)
    yield made
    made.close()


def run(engine, iterations, latency_s=0.004):
    for number in range(iterations):
        load = Load.decode(1 + number % 20, 100 * (1 + number % 20))
        launch_s = engine.launch(load)
        time.sleep(latency_s)
        engine.finish(load, launch_s, latency_s + 1e-5 * number)


def test_an_agent_from_start_to_end(agent, tmp_path):
    """One process for all of it: starting one takes a second or two."""
    status, body = agent.call("/health")
    assert (status, json.loads(body)) == (503, {"health": "no engine yet"})
    assert agent.get("/status")["health"] == "no engine yet"
    engine = FakeEngine(tmp_path / "rings", "decode-0", time.monotonic)
    agent.wait_for(lambda: agent.call("/health")[0] == 200)
    run(engine, 150)
    agent.wait_for(lambda: agent.get("/status")["iterations"]["decode"] >= 100)
    status = agent.get("/status")
    for key in (
        "instance", "role", "health", "dry_run", "clock_mhz", "target_mhz", "running_requests",
        "kv_tokens", "queued_requests", "latency_p99_ms", "slo_ms", "attainment", "power_w",
        "energy_j", "energy_gap_s", "energy_source", "saving",
    ):  # fmt: skip
        assert key in status, key
    assert (status["instance"], status["role"], status["health"]) == ("decode-0", "decode", "ok")
    assert status["power_w"] is None  # nobody knows
    check_settings(agent)
    check_refusals(agent)
    check_metrics(agent)
    agent.call("/policy", {"controller": "voltana"})
    check_feed(agent, engine)
    check_a_second_one_is_refused(tmp_path)
    engine.close()
    agent.wait_for(lambda: agent.call("/health")[0] == 503)
    assert agent.end() == 0
    assert (tmp_path / "state" / "decode-0.predictor.json").exists()


def check_settings(agent):
    assert agent.call("/slo", {"itl_ms": 20})[0] == 200
    assert agent.get("/slo")["itl_ms"] == pytest.approx(20)
    assert agent.get("/status")["slo_ms"] == pytest.approx(20)
    assert json.loads(agent.call("/levels", {"levels": "above:1000"})[1])["levels_mhz"] == [
        1005.0, 1200.0, 1410.0,
    ]  # fmt: skip
    assert agent.call("/policy", {"controller": "static-max"})[0] == 200
    assert agent.get("/policy") == {"controller": "static-max"}
    assert agent.call("/limit", {"max_mhz": 1250, "seconds": 60})[0] == 200
    agent.wait_for(lambda: agent.get("/status")["target_mhz"] == 1200.0)
    assert json.loads(agent.call("/dry-run", {"dry_run": True})[1]) == {"dry_run": True}
    assert agent.get("/status")["dry_run"] is True
    agent.call("/dry-run", {"dry_run": False})
    agent.wait_for(lambda: agent.get("/status")["clock_mhz"] == 1200.0)


def check_refusals(agent):
    for path, body, said in (
        ("/slo", {"itl_ms": 0}, "itl_ms = 0 is not allowed"),
        ("/slo", {"itl": 1}, "unknown key 'itl'"),
        ("/policy", {"controller": "os:system"}, "os:system"),
        ("/policy", {"controller": "nonsense"}, "unknown policy 'nonsense'"),
        ("/policy", {"controller": "best-fixed"}, "searched for one recorded trace"),
        ("/policy", {"controller": "fixed:901"}, "Take "),
        ("/levels", {"levels": "above:9000"}, "600-1410 MHz"),
        ("/dry-run", {"dry_run": "maybe"}, "true or false"),
        ("/limit", {"max_mhz": 900}, "seconds"),
        ("/slo", [1], "table"),
    ):
        status, answer = agent.call(path, body)
        assert status == 422, (path, answer)
        assert said in answer, (path, answer)
    assert agent.call("/slo", {}, {"Host": "evil.example"})[0] == 403
    assert agent.call("/status", headers={"Host": "evil.example"})[0] == 403
    assert agent.call("/slo", {}, method="POST")[0] == 405
    assert agent.get("/policy") == {"controller": "static-max"}


def check_metrics(agent):
    _, text = agent.call("/metrics")
    assert 'voltana_agent_target_clock_hertz{backend="decode-0"} 1.2e+09' in text
    assert 'voltana_agent_iterations_total{backend="decode-0",phase="decode"} 150.0' in text
    assert "voltana_agent_prediction_mae_seconds" in text
    assert 'voltana_agent_healthy{backend="decode-0"} 1.0' in text
    account = agent.get("/status")["guarantee"]
    for key in (
        "certified", "missed", "violated", "bound", "forgiven", "overdue", "lost", "blocked",
        "elsewhere", "unsettled", "decided", "in_flight", "unlabelled", "at_most", "state",
    ):  # fmt: skip
        assert key in account, key
    assert account["state"] == "new"


def check_feed(agent, engine):
    socket = zmq.Context.instance().socket(zmq.DEALER)
    seek_feed(socket, MOST_BYTES)
    socket.connect(agent.feed)
    engine.idle()
    messages = []
    ends_s = time.monotonic() + 2.5
    while time.monotonic() < ends_s:
        if socket.poll(100):
            messages.append(parse_message(socket.recv()))
    socket.close(0)
    assert len(messages) > 40  # an idle instance stays fresh
    assert {message.instance for message in messages} == {"decode-0"}
    assert max(message.age_s for message in messages) < 10.0  # a busy machine holds it up
    facts = [message.facts for message in messages if message.facts is not None]
    assert any(sent.snapshot for sent in facts)
    assert all(sent.power and sent.limits.kv_capacity_tokens == 200_000 for sent in facts)
    assert messages[-1].state.running_requests == 0
    run(engine, 1)
    engine.launch(Load.decode(7, 700))


def check_a_second_one_is_refused(folder):
    second = Process(folder)
    assert second.process.wait(60) == 2
    assert "an agent serves 'decode-0' already" in second.log.read_text()


def test_an_agent_ends_with_its_engine_where_it_is_told_to(tmp_path, engine):
    agent = Process(tmp_path, "--until-engine-ends", "--dry-run").wait_served()
    run(engine, 1)
    assert agent.get("/status")["dry_run"] is True
    assert agent.process.poll() is None
    engine.close()
    assert agent.process.wait(60) == 0
    late = Process(tmp_path, "--until-engine-ends", "--dry-run")
    assert late.process.wait(60) == 0  # the engine ended before its agent was up


@pytest.mark.parametrize(
    ("config", "arguments", "said"),
    [
        ("[actuator]\nkind = 'daemon'\n", ["--gpus", "MIG-1-2"], "disable MIG"),
        ("[[instance]]\nname = 'decode-0'\ngpus = ['x']\n", [], "is no UUID of a GPU"),
        ("[actuator]\nkind = 'simulated'\n", [], "engine.table_mhz"),
        (CONFIG, ["--gpus", "0,x"], "gpus = '0,x'"),
        ("[policy]\nlevel = 1\n", [], "unknown key in [policy] 'level'"),
    ],
)
def test_what_is_missing_is_said_in_one_line(tmp_path, config, arguments, said):
    agent = Process(tmp_path, *arguments, config=config)
    assert agent.process.wait(60) == 2
    (line,) = agent.log.read_text().splitlines()[-1:]
    assert line.startswith("voltana-sglang: ")
    assert said in line
    assert os.path.exists(tmp_path / "v.toml")  # noqa: PTH110


def test_a_step_that_fails_ends_no_agent_and_is_said_once(tmp_path):
    config = parse_config(
        {
            "agent": {"rings": str(tmp_path / "rings"), "state": str(tmp_path / "state")},
            "actuator": {"kind": "simulated"},
            "engine": {"table_mhz": [600, 1410]},
        }
    )
    options = AgentOptions(
        instance="decode-0", role=None, gpus=(), control_port=0, feed_port=0, dry_run=False
    )
    ticks = []

    async def check():
        agent = Agent(config, options)

        def tick():
            ticks.append(1)
            raise ZeroDivisionError("a power model of mine")

        agent.energy.tick = tick
        agent._log = structlog.get_logger()
        running = asyncio.create_task(agent.run())
        async with asyncio.timeout(30):
            while len(ticks) < 3:
                await asyncio.sleep(0.01)
        agent.end()
        await running

    with structlog.testing.capture_logs() as logs:
        asyncio.run(check())
    assert len([entry for entry in logs if entry["event"] == "a step failed"]) == 1
