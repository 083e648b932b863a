"""A rehearsed cluster under load, scraped by a real Prometheus."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from voltana.rehearsal.company import Company
from voltana.rehearsal.fake_driver import built
from voltana.rehearsal.port import find_dialect
from voltana.rehearsal.rehearse import scenario_of
from voltana.rehearsal.stage import TOKEN_VARIABLE, set_stage
from voltana.serving.config import read_config
from voltana.serving.launch.instances import CONTROL_OFFSET, METRICS_OFFSET

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from voltana.rehearsal.stage import Stage

ROOT = Path(__file__).parents[2]
RULES = ROOT / "deploy" / "monitoring" / "prometheus" / "voltana.rules.yml"

FACTOR = 0.5
"""Seconds of the rehearsal in one of the wall's: what this machine surely keeps up with."""

WINDOW = "30s"
"""In the place of minutes and hours: long against a window of energy."""

CLUSTER = """
[launch]
model_path = "meta-llama/Llama-3.1-8B-Instruct"
prefill = 1
decode = 2
first_port = {first}

[engine]
hardware = "a100-sxm4-80gb"
model = "llama-3.1-8b"

[agent]
metrics_port = 0

[router]
port = {router}
metrics_port = {metrics}
max_in_flight = 64
tenant_header = "X-Tenant"
"""


def free_ports() -> int:
    """The first of a few hundred ports that are free, as far as a look tells."""
    for first in range(20_000, 32_000, 1000):
        with contextlib.ExitStack() as probes:
            try:
                for offset in (0, 1, 2, 100, 200, 300, 400, 600, 700, 800):
                    probe = probes.enter_context(socket.socket())
                    probe.bind(("127.0.0.1", first + offset))
            except OSError:
                continue
            return first
    raise OSError("no free ports")


def asked(url: str, method: str = "GET", body: object = None, **headers: str) -> bytes:
    """What an endpoint answers."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"} | headers)
    request.method = method
    with urllib.request.urlopen(request, timeout=30) as answer:
        return answer.read()


@dataclass
class Cluster:
    """What a test works with."""

    stage: Stage
    company: Company
    first: int
    exporter: subprocess.Popen[bytes]
    prometheus: str
    ending: threading.Event = field(default_factory=threading.Event)

    def values(self, query: str) -> list[tuple[dict[str, str], float]]:
        """What Prometheus answers to a query just now."""
        url = f"{self.prometheus}/api/v1/query?" + urllib.parse.urlencode({"query": query})
        answer = json.loads(asked(url))
        assert answer["status"] == "success", (query, answer)
        return [(one["metric"], float(one["value"][1])) for one in answer["data"]["result"]]

    def firing(self) -> set[str]:
        """Names of the alerts that fire."""
        found = json.loads(asked(f"{self.prometheus}/api/v1/alerts"))["data"]["alerts"]
        return {one["labels"]["alertname"] for one in found if one["state"] == "firing"}

    def until(self, condition: Callable[[], object], limit_s: float) -> bool:
        """Wait until something holds; whether it did in time."""
        ends_s = time.monotonic() + limit_s
        while not condition():
            if time.monotonic() > ends_s:
                return False
            time.sleep(0.5)
        return True

    def tell_agent(self, index: int, path: str, body: object) -> None:
        """Change something at an agent."""
        token = self.stage.environment[TOKEN_VARIABLE]
        url = f"http://127.0.0.1:{self.first + CONTROL_OFFSET + index}{path}"
        asked(url, "PUT", body, Authorization=f"Bearer {token}")

    def load(self, tenant: str, pause_s: float, tokens: tuple[int, int] = (400, 60)) -> None:
        """Send requests one after the other until the end."""
        dialect = find_dialect("sglang")
        body = json.loads(dialect.body(*tokens))
        while not self.ending.wait(pause_s):
            with contextlib.suppress(OSError):
                asked(self.company.url + dialect.path, "POST", body, **{"X-Tenant": tenant})

    def begin_load(self, clients: int, tenant: str, pause_s: float) -> None:
        """Send requests from several clients."""
        for _ in range(clients):
            threading.Thread(target=self.load, args=(tenant, pause_s), daemon=True).start()


def short_rules() -> str:
    """The rules as they are, with windows and patience that a test can wait for."""
    text = re.sub(r"\[\d+[mh]\]", f"[{WINDOW}]", RULES.read_text(encoding="utf-8"))
    groups = yaml.safe_load(text)
    for group in groups["groups"]:
        group["interval"] = "1s"
        for rule in group["rules"]:
            rule.pop("for", None)
    return yaml.safe_dump(groups)


@contextlib.contextmanager
def running(command: list[str], log: Path, **environment: str) -> Iterator[subprocess.Popen[bytes]]:
    """A process that ends with the block."""
    with log.open("wb") as file:
        process = subprocess.Popen(command, stdout=file, stderr=file, env=os.environ | environment)
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@contextlib.contextmanager
def rehearsed(folder: Path) -> Iterator[Cluster]:
    """The cluster, its exporter and its Prometheus.

    Args:
        folder: For files; a short path, for a socket is among them.
    """
    first = free_ports()
    exporter, prometheus = first + 700, first + 800
    config_file = folder / "cluster.toml"
    config_file.write_text(CLUSTER.format(first=first, router=first + 500, metrics=first + 600))
    dialect = find_dialect("sglang")
    config = read_config(config_file, dialect.config)
    scenario = scenario_of(config, dialect, {}, ["voltana"])
    stage = set_stage(
        folder / "r", built(), config, scenario, dialect,
        policy="voltana", factor=FACTOR, interval=8, keep_serving=True,
    )  # fmt: skip
    metrics = "import sys; from voltana_actuatord.entry import main; sys.exit(main())"
    command = [sys.executable, "-c", metrics, "metrics", "--as-root"]
    with contextlib.ExitStack() as stack:
        stack.enter_context(stage.machine)
        company = stack.enter_context(Company(stage, config, dialect, lambda *_: None))
        told = stack.enter_context(
            running(
                [*command, "--socket", str(stage.socket), "--port", str(exporter)],
                folder / "exporter.log",
            )
        )
        agents = [f"127.0.0.1:{first + METRICS_OFFSET + i}" for i in range(3)]
        stack.enter_context(
            running(
                _prometheus(folder, prometheus, agents, first + 600, exporter),
                folder / "prometheus.log",
            )
        )
        made = Cluster(stage, company, first, told, f"http://127.0.0.1:{prometheus}")
        stack.callback(made.ending.set)
        assert made.until(lambda: _is_ready(made.prometheus), 60.0), "no Prometheus"
        yield made


def _is_ready(url: str) -> bool:
    with contextlib.suppress(OSError):
        return bool(asked(f"{url}/-/ready"))
    return False


def _prometheus(
    folder: Path, port: int, agents: list[str], router: int, exporter: int
) -> list[str]:
    """The command that starts it, on the configuration of deploy/ with targets of this host."""
    given = yaml.safe_load((RULES.parent / "prometheus.yml").read_text(encoding="utf-8"))
    targets = {
        "voltana-agent": agents,
        "voltana-router": [f"127.0.0.1:{router}"],
        "voltana-actuatord": [f"127.0.0.1:{exporter}"],
    }
    assert {one["job_name"] for one in given["scrape_configs"]} == set(targets)
    for one in given["scrape_configs"]:
        one["static_configs"] = [{"targets": targets[one["job_name"]]}]
    given["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    given["rule_files"] = ["rules.yml"]
    (folder / "rules.yml").write_text(short_rules())
    (folder / "prometheus.yml").write_text(yaml.safe_dump(given))
    program = shutil.which("prometheus")
    assert program is not None
    return [
        program,
        f"--config.file={folder / 'prometheus.yml'}",
        f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}",
    ]
