"""A launch that cleans up kills its own: numbers are used again, and variables are copied."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.attack.test_launch_kill import gone, grown, mark, marked, pkill, said_in, start
from voltana.errors import ConfigError
from voltana.serving.launch import warden
from voltana.serving.launch.child_process import ChildProcess, ProcessSpec
from voltana.serving.launch.strays import LAUNCH, MARK, PLACE, sole_launch

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["mark"]

SLEEP = (sys.executable, "-I", "-S", "-c", "import time; time.sleep(600)")
root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root for namespaces and owners")


@contextlib.contextmanager
def running(*command: str, **options: object) -> Iterator[subprocess.Popen[bytes]]:
    """A process of an operator's, with a session of its own."""
    process = subprocess.Popen(command, start_new_session=True, **options)  # type: ignore[call-overload]
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def child_of(process: subprocess.Popen[bytes]) -> int:
    ends_s = time.monotonic() + 30
    path = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    while not (found := path.read_text().split()):
        assert time.monotonic() < ends_s
        time.sleep(0.01)
    return int(found[0])


def lives(pid: int) -> bool:
    found = warden.process_of(pid)
    return found is not None and found.state != "Z"


def no_strays(_: str, text: str) -> None:
    raise AssertionError(text)


def test_a_session_that_has_the_number_of_a_warden_by_now_is_nobody_s_to_kill(
    tmp_path: Path,
) -> None:
    """A server ended hours ago, its number went to an operator's shell, and the launch ends."""
    spec = ProcessSpec(name="decode-0", kind="decode", command=(sys.executable, "-c", ""))
    child = ChildProcess(spec, tmp_path)
    child.finish(30.0)
    with running(*SLEEP) as operators:
        child._process.pid = operators.pid
        child.terminate()
        child.finish(0.0)
        time.sleep(0.1)
        assert operators.poll() is None


def test_a_process_that_has_the_number_of_one_that_was_seen_is_not_killed() -> None:
    with running(*SLEEP) as another:
        seen = warden.processes()[another.pid]
        warden.kill({another.pid: seen._replace(began=seen.began - 1)})
        time.sleep(0.1)
        assert another.poll() is None
        warden.kill({another.pid: seen})
        assert another.wait(10) == -signal.SIGKILL


@pytest.mark.parametrize("all_of_it", [False, True])
def test_a_launch_that_lives_is_not_cleared_away_though_its_lock_was_removed(
    tmp_path: Path, mark: str, all_of_it: bool
) -> None:
    """By who tidies old files, or removes the folder and starts again by mistake."""
    logs = tmp_path / "logs"
    logs.mkdir()
    launch = start(logs, mark)
    grown(logs, 2)
    before = set(marked(mark))
    if all_of_it:
        shutil.rmtree(logs)
        logs.mkdir()
    else:
        (logs / "launch.lock").unlink()
    second = start(logs, mark + "x")
    assert second.wait(60) == 1
    assert f"another launch (process {launch.pid}) is running" in (logs / "said").read_text()
    assert before <= set(marked(mark))
    launch.kill()
    launch.wait()
    assert gone(mark) == []


def test_what_an_operator_starts_with_copied_variables_lives(tmp_path: Path, mark: str) -> None:
    """``env $(cat /proc/PID/environ ...) python``, to look at an engine: killed with no other."""
    launch = start(tmp_path, mark, "signal.SIG_IGN")
    grown(tmp_path, 2)
    copied = {}
    for pid in set(marked(mark)) - {launch.pid}:
        pairs = (Path(f"/proc/{pid}/environ").read_bytes().decode().split("\0"))[:-1]
        found = dict(pair.partition("=")[::2] for pair in pairs)
        if PLACE in found and MARK in found and LAUNCH in found:
            copied = {name: found[name] for name in (PLACE, MARK, LAUNCH)}
    assert copied
    shell = "env " + " ".join(f"{name}='{value}'" for name, value in copied.items())
    with running("sh", "-c", f"{shell} sleep 600; true") as operators:
        ends_s = time.monotonic() + 30
        child = child_of(operators)
        while PLACE.encode() not in Path(f"/proc/{child}/environ").read_bytes():
            assert time.monotonic() < ends_s
            time.sleep(0.01)
        pkill(mark)
        launch.wait()
        again = start(tmp_path, mark)
        try:
            said_in(tmp_path, "an earlier launch left behind")
            grown(tmp_path, 2)
            assert lives(child)
        finally:
            again.kill()
            again.wait()
        assert lives(child)


@root
def test_what_lives_in_another_container_has_another_folder_of_that_name(tmp_path: Path) -> None:
    if subprocess.run(["unshare", "-m", "true"], check=False, capture_output=True).returncode:
        pytest.skip("no mount namespace may be made here")
    environment = os.environ | {PLACE: str(tmp_path.resolve())}
    with running("unshare", "-m", *SLEEP, env=environment) as other:
        ends_s = time.monotonic() + 30
        while b"-I" not in Path(f"/proc/{other.pid}/cmdline").read_bytes().split(b"\0")[:2]:
            assert time.monotonic() < ends_s
            time.sleep(0.01)
        with sole_launch(tmp_path, no_strays):
            pass
        assert other.poll() is None


@root
def test_a_container_without_proc_is_told_of_and_its_processes_end(
    tmp_path: Path, mark: str
) -> None:
    """What shares the session of a process ends with the launch; what left it cannot be found."""
    if subprocess.run(["unshare", "-m", "true"], check=False, capture_output=True).returncode:
        pytest.skip("no mount namespace may be made here")
    program = (
        "import sys, pathlib\n"
        "from voltana.serving.launch.child_process import ProcessSpec\n"
        "from voltana.serving.launch.strays import sole_launch\n"
        "from voltana.serving.launch.supervise import Supervisor\n"
        "logs = pathlib.Path(sys.argv[1])\n"
        "said = lambda *what: print(*what, flush=True)\n"
        "spec = ProcessSpec(name='decode-0', kind='decode', command=('sh', '-c',\n"
        "    'sleep 600 & sleep 600 & echo grown; trap true TERM; wait; wait'))\n"
        "with sole_launch(logs, said):\n"
        "    supervisor = Supervisor([[spec]], logs, said)\n"
        "    supervisor.start(lambda: False)\n"
        "    supervisor.run(lambda: False, 'keep-serving')\n"
    )
    shell = f'mount -t tmpfs none /proc && exec {sys.executable} -c "$0" {tmp_path}'
    with (tmp_path / "said").open("wb") as said:
        launch = subprocess.Popen(
            ["unshare", "-m", "sh", "-c", shell, program],
            env=os.environ | {"MARK": mark},
            stdout=said,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    grown(tmp_path, 1)
    assert "/proc is hidden here" in said_in(tmp_path, "hidden")
    assert len(marked(mark)) >= 4
    launch.kill()
    launch.wait()
    assert gone(mark) == []


def test_a_link_in_the_lock_s_place_is_neither_followed_nor_emptied(tmp_path: Path) -> None:
    logs, theirs = tmp_path / "logs", tmp_path / "theirs"
    logs.mkdir()
    theirs.write_text("precious")
    (logs / "launch.lock").symlink_to(theirs)
    with pytest.raises(ConfigError, match=r"launch\.logs = .* cannot be used"):
        sole_launch(logs, no_strays).__enter__()
    assert theirs.read_text() == "precious"


@pytest.mark.parametrize("kind", ["pipe", "folder", "file", "dead link"])
def test_a_place_without_a_lock_is_refused_at_once(tmp_path: Path, kind: str) -> None:
    logs = tmp_path / "logs"
    if kind == "file":
        logs.write_text("")
    elif kind == "dead link":
        logs.symlink_to(tmp_path / "nowhere" / "further")
    else:
        logs.mkdir()
        lock = logs / "launch.lock"
        os.mkfifo(lock) if kind == "pipe" else lock.mkdir()
    if kind == "dead link":  # a folder that can be made is made
        (tmp_path / "nowhere").write_text("")
    with pytest.raises(ConfigError, match=r"launch\.logs = .* cannot be used"):
        sole_launch(logs, no_strays).__enter__()


@root
def test_nobody_else_can_hold_the_lock_or_write_to_the_folder(tmp_path: Path) -> None:
    logs = tmp_path / "logs"
    with sole_launch(logs, no_strays):
        assert (logs / "launch.lock").stat().st_mode & 0o077 == 0
    logs.chmod(0o777)
    with pytest.raises(ConfigError, match="everybody may write to it"):
        sole_launch(logs, no_strays).__enter__()
    logs.chmod(0o755)
    os.chown(logs, 12001, 12001)
    with pytest.raises(ConfigError, match="user 12001 owns it"):
        sole_launch(logs, no_strays).__enter__()
