from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from voltana.serving.launch.child_process import ChildProcess, ProcessSpec, how_it_ended
from voltana.serving.launch.restarts import Restarts
from voltana.serving.launch.supervise import LaunchError, Supervisor

SERVER = """
import http.server, os, sys, time
class Answer(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200 if time.time() > ready else 503)
        self.end_headers()
    def log_message(self, *_): pass
ready = time.time() + float(sys.argv[2])
print("serving", flush=True)
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Answer).serve_forever()
"""
SLEEPER = (sys.executable, "-c", "import time; time.sleep(600)")
STUBBORN = (
    sys.executable,
    "-c",
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(1, flush=True);"
    "time.sleep(600)",
)
KINDS = ("unified", "router")
PARENT = (
    sys.executable,
    "-c",
    "import subprocess, sys; c = subprocess.Popen([sys.executable, '-c', 'import time;"
    " time.sleep(600)']); print(c.pid, flush=True); c.wait()",
)


def never() -> bool:
    return False


def running(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def wait_for(condition, timeout_s: float = 60.0) -> bool:
    ends_s = time.monotonic() + timeout_s
    while time.monotonic() < ends_s:
        if condition():
            return True
        time.sleep(0.02)
    return bool(condition())


class once:  # noqa: N801  (reads as a word where it is used)
    """Tells a launch to end once a condition holds, or when it takes too long."""

    def __init__(self, condition, timeout_s: float = 60.0) -> None:
        self.held = False
        self._condition = condition
        self._ends_s = time.monotonic() + timeout_s

    def __call__(self) -> bool:
        self.held = self.held or bool(self._condition())
        return self.held or time.monotonic() > self._ends_s


@pytest.fixture
def said() -> list[tuple[str, str]]:
    return []


@pytest.fixture
def supervise(tmp_path: Path, said):
    made: list[Supervisor] = []

    def make(*stages: list[ProcessSpec], start_timeout_s: float = 60.0) -> Supervisor:
        made.append(Supervisor(stages, tmp_path, lambda *what: said.append(what), start_timeout_s))
        return made[-1]

    yield make
    for supervisor in made:
        supervisor.shut_down(lambda: True)


def test_stages_wait_for_each_other(supervise, said, free_port) -> None:
    port = str(free_port)
    first = ProcessSpec(
        name="first",
        kind="unified",
        command=(sys.executable, "-c", SERVER, port, "0.5"),
        ready_url=f"http://127.0.0.1:{port}/health",
    )
    second = ProcessSpec(name="second", kind="router", command=SLEEPER)
    supervisor = supervise([first], [second])
    assert supervisor.start(never)
    names = [(name, text.split(",")[0].split(" after")[0]) for name, text in said]
    assert names == [
        ("first", "starting"),
        ("first", "ready"),
        ("second", "starting"),
        ("second", "ready"),
    ]
    assert supervisor.children[0].ready_after_s > 0.5
    assert "serving" in supervisor.children[0].log.read_text()


def test_the_log_of_a_process_that_does_not_start_is_quoted(supervise) -> None:
    broken = (sys.executable, "-c", "raise SystemExit('no such model')")
    spec = ProcessSpec(name="decode-0", kind="decode", command=broken, ready_url="http://[::1]:1/")
    with pytest.raises(LaunchError, match=r"decode-0 ended by itself \(exit status 1\)") as error:
        supervise([spec]).start(never)
    assert "no such model" in str(error.value)


def test_one_that_is_late_names_the_setting(supervise) -> None:
    spec = ProcessSpec(name="slow", kind="decode", command=SLEEPER, ready_url="http://127.0.0.1:9/")
    with pytest.raises(LaunchError, match=r"not ready after 1 s.*launch\.start_timeout_s"):
        supervise([spec], start_timeout_s=1.0).start(never)


def test_a_stop_during_the_start_is_obeyed(supervise) -> None:
    spec = ProcessSpec(name="slow", kind="decode", command=SLEEPER, ready_url="http://127.0.0.1:9/")
    assert not supervise([spec]).start(lambda: True)


@pytest.mark.parametrize(("on_exit", "serves_on"), [("shut-down", False), ("keep-serving", True)])
def test_a_death_is_reported_and_treated_as_configured(supervise, said, on_exit, serves_on) -> None:
    specs = [ProcessSpec(name=f"decode-{i}", kind="decode", command=SLEEPER) for i in range(2)]
    supervisor = supervise(specs)
    supervisor.start(never)
    os.kill(supervisor.children[0].pid, signal.SIGKILL)
    if not serves_on:
        with pytest.raises(LaunchError, match=r"decode-0 ended by itself \(signal SIGKILL"):
            supervisor.run(once(lambda: False), on_exit)
        return
    told = once(lambda: any(n == "decode-0" and "serving goes on" in text for n, text in said))
    supervisor.run(told, on_exit)
    assert told.held
    assert supervisor.children[1].status() is None


def test_serving_ends_with_the_last_server_of_a_kind(supervise) -> None:
    specs = [ProcessSpec(name=kind, kind=kind, command=SLEEPER) for kind in ("prefill", "decode")]
    supervisor = supervise(specs)
    supervisor.start(never)
    os.kill(supervisor.children[0].pid, signal.SIGKILL)
    with pytest.raises(LaunchError, match="prefill ended by itself"):
        supervisor.run(never, "keep-serving")


def test_an_agent_is_not_needed_for_serving(supervise, said) -> None:
    specs = [ProcessSpec(name=kind, kind=kind, command=SLEEPER) for kind in ("unified", "agent")]
    supervisor = supervise(specs)
    supervisor.start(never)
    os.kill(supervisor.children[1].pid, signal.SIGKILL)
    told = once(lambda: any("serving goes on" in text for _, text in said))
    supervisor.run(told, "keep-serving")
    assert told.held


def test_a_router_that_dies_is_back_and_serving_goes_on(supervise, said, free_port) -> None:
    """Its port is free again, its log is kept, and nothing else is touched."""
    port = str(free_port)
    router = ProcessSpec(
        name="router",
        kind="router",
        command=(sys.executable, "-c", SERVER, port, "0"),
        ready_url=f"http://127.0.0.1:{port}/health",
        restarts=True,
    )
    server = ProcessSpec(name="unified-0", kind="unified", command=SLEEPER)
    supervisor = supervise([server], [router])
    assert supervisor.start(never)
    first = supervisor.children[1].pid
    os.kill(first, signal.SIGKILL)
    back = once(lambda: any("ready again" in text for _, text in said))
    supervisor.run(back, "keep-serving")
    assert back.held
    assert [text for name, text in said if name == "router" and "SIGKILL" in text] == [
        "router ended by itself (signal SIGKILL), log "
        f"{supervisor.children[1].log}; starting it again in 1 s"
    ]
    assert supervisor.children[1].pid != first
    assert supervisor.children[1].status() is None
    assert supervisor.children[1].log.read_text().count("serving") == 2
    assert [child.spec.name for child in supervisor.children] == ["unified-0", "router"]


def test_a_router_that_dies_ends_everything_where_any_end_does(supervise) -> None:
    specs = [ProcessSpec(name=k, kind=k, command=SLEEPER, restarts=k == "router") for k in KINDS]
    supervisor = supervise(specs)
    supervisor.start(never)
    os.kill(supervisor.children[1].pid, signal.SIGKILL)
    with pytest.raises(LaunchError, match=r"router ended by itself \(signal SIGKILL"):
        supervisor.run(once(lambda: False), "shut-down")


def test_what_dies_over_and_over_is_given_up(supervise, said, monkeypatch) -> None:
    monkeypatch.setattr("voltana.serving.launch.restarts.FIRST_S", 0.01)
    monkeypatch.setattr("voltana.serving.launch.restarts.MOST", 2)
    broken = (sys.executable, "-c", "raise SystemExit('no such module')")
    server = ProcessSpec(name="unified-0", kind="unified", command=SLEEPER)
    for kind in ("agent", "router"):
        said.clear()
        failing = ProcessSpec(name=kind, kind=kind, command=broken, restarts=True)
        supervisor = supervise([server, failing])
        supervisor._children = [ChildProcess(s, supervisor._logs) for s in (server, failing)]
        told = once(lambda: any("once too often; serving goes on" in text for _, text in said))
        if kind == "agent":
            supervisor.run(told, "keep-serving")
            assert told.held
        else:
            with pytest.raises(LaunchError, match="no such module"):
                supervisor.run(told, "keep-serving")
        assert sum("starting it again" in text for _, text in said) == 2


def test_starts_come_at_doubling_intervals_and_anew_after_a_good_while() -> None:
    restarts = Restarts()
    waits = [restarts.wait_s("router", 0.1) for _ in range(7)]
    assert waits == [1.0, 2.0, 4.0, 8.0, 16.0, 30.0, None]
    assert restarts.wait_s("agent", 0.1) == 1.0
    assert restarts.wait_s("router", 3600.0) == 1.0
    assert restarts.wait_s("router", 0.1) == 2.0


def test_shutting_down_takes_grandchildren_and_the_stubborn_along(supervise, tmp_path) -> None:
    specs = [
        ProcessSpec(name="parent", kind="decode", command=PARENT, grace_s=0.5),
        ProcessSpec(name="stubborn", kind="decode", command=STUBBORN, grace_s=0.5),
    ]
    supervisor = supervise(specs)
    supervisor.start(never)
    pids = [child.pid for child in supervisor.children]
    assert wait_for(lambda: (tmp_path / "parent.log").read_text().strip())
    assert wait_for(lambda: (tmp_path / "stubborn.log").read_text().strip())
    pids.append(int((tmp_path / "parent.log").read_text()))
    supervisor.shut_down()
    assert not any(running(pid) for pid in pids)
    supervisor.shut_down()


def test_nothing_outlives_a_launch_that_is_killed(tmp_path) -> None:
    folder = str(tmp_path)
    code = (
        "import sys, time; from pathlib import Path;"
        "from voltana.serving.launch.child_process import ChildProcess, ProcessSpec;"
        "c = ChildProcess(ProcessSpec(name='c', kind='decode',"
        f" command=(sys.executable, '-c', 'import time; time.sleep(600)')), Path({folder!r}));"
        "print(c.pid, flush=True); time.sleep(600)"
    )
    launch = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert launch.stdout is not None
    child = int(launch.stdout.readline())
    assert running(child)
    launch.kill()
    launch.wait()
    launch.stdout.close()
    assert wait_for(lambda: not running(child))


def test_exit_statuses_in_words() -> None:
    assert how_it_ended(3) == "exit status 3"
    assert how_it_ended(-9) == "signal SIGKILL"
    assert how_it_ended(-99) == "signal 99"


def test_a_process_without_an_address_is_ready_at_once(tmp_path) -> None:
    child = ChildProcess(ProcessSpec(name="c", kind="agent", command=SLEEPER), tmp_path)
    assert child.probe()
    child.terminate()
    child.finish(5.0)
    assert child.status() == -signal.SIGTERM
