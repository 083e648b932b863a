"""A launch that is killed, at whatever moment, leaves no process behind."""

from __future__ import annotations

import contextlib
import os
import random
import secrets
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from voltana.serving.launch.child_process import ChildProcess, ProcessSpec

GONE_WITHIN_S = 20.0
"""Four seconds of grace, and what a busy machine adds."""

TREE = """
import os, signal, subprocess, sys, time
python = [sys.executable, "-I", "-S", "-c"]
sleep = [*python, "import time; time.sleep(600)"]
deaf = [*python, "import signal, time; [signal.signal(n, signal.SIG_IGN) for n in (1, 2, 15)];"
                 "time.sleep(600)"]
nested = [*python, "import subprocess, time; subprocess.Popen(%r, start_new_session=True);"
                   "time.sleep(600)" % sleep]
subprocess.Popen(sleep)                              # as a scheduler of an engine
subprocess.Popen(deaf)                               # that hears no signal
subprocess.Popen(sleep, start_new_session=True)      # in a session of its own
subprocess.Popen(nested)                             # with a child in a session of its own
if os.fork() == 0:                                   # a daemon: its parent is gone
    os.setsid()
    if os.fork() == 0:
        os.execv(sleep[0], sleep)
    os._exit(0)
mark = {"MARK": os.environ["MARK"]}
subprocess.Popen(sleep, env=mark)                    # without the launch's variables
print("grown", flush=True)
signal.signal(signal.SIGTERM, {deafness})
time.sleep(600)
"""
"""What engines start, and worse; all of it carries the variable MARK."""

LAUNCH = """
import sys
from pathlib import Path
from voltana.serving.launch.child_process import ProcessSpec
from voltana.errors import ConfigError
from voltana.serving.launch.strays import sole_launch
from voltana.serving.launch.supervise import Supervisor
tree, logs = sys.argv[1], Path(sys.argv[2])
said = lambda *what: print(*what, flush=True)
specs = [ProcessSpec(name=f"decode-{n}", kind="decode", grace_s=40.0,
                     command=(sys.executable, "-I", "-S", "-c", tree)) for n in range(2)]
try:
    with sole_launch(logs, said):
        supervisor = Supervisor([specs[:1], specs[1:]], logs, said)
        supervisor.start(lambda: False)
        supervisor.run(lambda: False, "keep-serving")
except ConfigError as error:
    sys.exit(str(error))
"""


def marked(mark: str) -> list[int]:
    """Living processes with the variable."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                has = f"MARK={mark}".encode() in (folder / "environ").read_bytes().split(b"\0")
                state = (folder / "stat").read_text().rpartition(")")[2].split()[0]
            except OSError:
                continue
            if has and state != "Z":
                found.append(int(folder.name))
    return found


def gone(mark: str, within_s: float = GONE_WITHIN_S) -> list[int]:
    """What is left after that time; for a moment longer, what has been forked meanwhile."""
    ends_s = time.monotonic() + within_s
    while (left := marked(mark)) and time.monotonic() < ends_s:
        time.sleep(0.05)
    time.sleep(0.1)
    return left or marked(mark)


@pytest.fixture
def mark() -> object:
    made = secrets.token_hex(8)
    yield made
    for pid in marked(made):
        with contextlib.suppress(ProcessLookupError):  # it has ended meanwhile
            os.kill(pid, signal.SIGKILL)


def start(tmp_path: Path, mark: str, deafness: str = "signal.SIG_DFL") -> subprocess.Popen[bytes]:
    tree = TREE.replace("{deafness}", deafness)
    with (tmp_path / "said").open("wb") as said:
        return subprocess.Popen(
            [sys.executable, "-c", LAUNCH, tree, str(tmp_path)],
            env=os.environ | {"MARK": mark},
            stdout=said,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def grown(tmp_path: Path, trees: int) -> None:
    ends_s = time.monotonic() + 60
    while sum("grown" in log.read_text() for log in tmp_path.glob("*.log")) < trees:
        assert time.monotonic() < ends_s
        time.sleep(0.02)
    time.sleep(0.5)  # what is forked last, and the parent of the daemon that ends


@pytest.mark.parametrize("deafness", ["signal.SIG_DFL", "signal.SIG_IGN"])
def test_a_killed_launch_leaves_nothing(tmp_path: Path, mark: str, deafness: str) -> None:
    launch = start(tmp_path, mark, deafness)
    grown(tmp_path, 2)
    assert len(marked(mark)) >= 17
    os.killpg(launch.pid, signal.SIGKILL)
    launch.wait()
    assert gone(mark) == []


def test_a_launch_whose_processes_were_all_stopped_leaves_nothing(
    tmp_path: Path, mark: str
) -> None:
    """As a debugger or a freezer stops them, the wardens among them."""
    launch = start(tmp_path, mark)
    grown(tmp_path, 2)
    for pid in set(marked(mark)) - {launch.pid}:
        os.kill(pid, signal.SIGSTOP)
    launch.kill()
    launch.wait()
    assert gone(mark) == []


@pytest.mark.parametrize("seed", range(8))
def test_at_every_moment_of_its_start(tmp_path: Path, mark: str, seed: int) -> None:
    """From before its first process on until all of them have grown."""
    launch = start(tmp_path, mark)
    randoms = random.Random(seed)
    if seed % 2:
        ends_s = time.monotonic() + 30
        while len(marked(mark)) < 2 + seed and time.monotonic() < ends_s:
            time.sleep(0.001)
    else:
        time.sleep(randoms.uniform(0.0, 1.5))
    launch.kill()
    launch.wait()
    assert gone(mark) == []


def test_a_killed_warden_costs_its_process_alone_and_nothing_is_left(
    tmp_path: Path, mark: str
) -> None:
    """The launch lives: its other processes go on, and the leftovers of the one are cleared."""
    launch = start(tmp_path, mark)
    grown(tmp_path, 2)
    wardens = [
        pid for pid in marked(mark) if b"warden.py" in Path(f"/proc/{pid}/cmdline").read_bytes()
    ]
    assert len(wardens) == 2
    before = len(marked(mark))
    os.kill(wardens[0], signal.SIGKILL)
    ends_s = time.monotonic() + GONE_WITHIN_S
    while len(marked(mark)) > (before + 1) // 2 and time.monotonic() < ends_s:
        time.sleep(0.05)
    time.sleep(0.3)
    left = marked(mark)
    if launch.poll() is None:
        assert wardens[1] in left
        launch.kill()
    launch.wait()
    assert gone(mark) == []


def test_an_orderly_end_kills_the_daemons_of_a_process_too(tmp_path: Path, mark: str) -> None:
    command = (sys.executable, "-I", "-S", "-c", TREE.replace("{deafness}", "signal.SIG_DFL"))
    spec = ProcessSpec(
        name="decode-0", kind="decode", command=command, environment=(("MARK", mark),)
    )
    child = ChildProcess(spec, tmp_path)
    grown(tmp_path, 1)
    child.terminate()
    child.finish(10.0)
    assert marked(mark) == []
    assert child.status() == -signal.SIGTERM


def test_one_process_in_a_hurry_leaves_the_others_alone(tmp_path: Path, mark: str) -> None:
    """Killed at once, its descendants in whatever session; another's are not touched."""
    tree = TREE.replace("{deafness}", "signal.SIG_IGN")
    first, second = (
        ChildProcess(
            ProcessSpec(
                name=name, kind="decode", environment=(("MARK", mark + name),),
                command=(sys.executable, "-I", "-S", "-c", tree),
            ),
            tmp_path,
        )
        for name in "ab"
    )  # fmt: skip
    grown(tmp_path, 2)
    before = set(marked(mark + "b"))
    first.finish(0.0)
    assert marked(mark + "a") == []
    assert before <= set(marked(mark + "b"))
    second.finish(0.0)
    assert marked(mark + "b") == []


def test_a_command_that_cannot_be_run_says_so(tmp_path: Path) -> None:
    child = ChildProcess(
        ProcessSpec(name="a", kind="agent", command=("/nowhere/python",)), tmp_path
    )
    child.finish(10.0)
    assert child.status() == 127
    assert "/nowhere/python cannot be run" in child.last_words()


def pkill(mark: str) -> None:
    """``pkill -9 -f voltana``, for the processes of one test: launch and wardens, all at once."""
    named = [pid for pid in marked(mark) if b"voltana" in Path(f"/proc/{pid}/cmdline").read_bytes()]
    assert len(named) == 3, named
    for pid in named:
        os.kill(pid, signal.SIGSTOP)  # as quick as pkill is: none sees another's end
    for pid in named:
        os.kill(pid, signal.SIGKILL)


def said_in(folder: Path, words: str, within_s: float = 60.0) -> str:
    ends_s = time.monotonic() + within_s
    while words not in (text := (folder / "said").read_text()):
        assert time.monotonic() < ends_s, text
        time.sleep(0.02)
    return text


def test_what_a_pkill_of_everything_leaves_behind_ends_at_the_next_start(
    tmp_path: Path, mark: str
) -> None:
    """What the engines had started is nobody's then; it is found, ended, and told of."""
    launch = start(tmp_path, mark, "signal.SIG_IGN")
    grown(tmp_path, 2)
    pkill(mark)
    launch.wait()
    time.sleep(0.5)
    left = marked(mark)
    assert left, "the test leaves nothing to be found"
    again = start(tmp_path, mark)
    try:
        text = said_in(tmp_path, "an earlier launch left behind")
        found = [pid for pid in left if has(pid, "VOLTANA_LAUNCH_LOGS")]
        assert found == []
        assert f"killed {text.split('killed ')[1].split()[0]} processes" in text
    finally:
        again.kill()
        again.wait()
    unmarked = set(marked(mark)) & set(left)  # whoever drops the launch's variables is not found
    assert len(unmarked) <= 2


def has(pid: int, variable: str) -> bool:
    try:
        return variable.encode() in Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return False


def test_a_second_launch_with_the_same_logs_is_refused_and_harms_nobody(
    tmp_path: Path, mark: str
) -> None:
    launch = start(tmp_path, mark)
    grown(tmp_path, 2)
    before = set(marked(mark))
    other = tmp_path / "other"
    other.mkdir()
    second, third = start(tmp_path, mark + "x"), start(other, mark + "y")
    assert second.wait(60) == 1
    assert "another launch is running" in (tmp_path / "said").read_text()
    grown(other, 2)  # a launch of another folder does not concern the first one either
    assert before <= set(marked(mark))
    for one in (third, launch):
        one.kill()
        one.wait()
    assert gone(mark + "y") == []
    assert gone(mark) == []
