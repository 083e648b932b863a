"""Starts that race, places that are taken away, configurations that are exchanged."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import threading
import time
from pathlib import Path

import pytest

from tests.actuation.daemons import Daemon, run_to_end
from tests.actuation.driver import uuid_of
from voltana_actuatord.daemon import trust
from voltana_actuatord.daemon.claims import Claims
from voltana_actuatord.daemon.journal import Journal
from voltana_actuatord.daemon.listening import ListeningPlace
from voltana_actuatord.daemon.parent import START_LIMIT_S
from voltana_actuatord.errors import ActuatorError

MHZ = 1005.0
STRANGER = 12001
root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root to give files away")


def second_at(tmp_path, machine, **changes):
    """A daemon of a folder of its own, with some of the first one's paths; not started."""
    folder = tmp_path / "second"
    folder.mkdir()
    daemon = Daemon(folder, machine, start=False)
    text = daemon.config.read_text()
    for old, new in changes.items():
        text = text.replace(str(folder / {"socket": "actuator.sock"}.get(old, old)), str(new))
    daemon.config.write_text(text)
    return daemon


def leave_a_socket(path):
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as dead:
        dead.bind(str(path))


@pytest.mark.parametrize("shared", ["socket", "state"])
def test_two_that_start_at_once_leave_one(shared, machine, tmp_path):
    first = Daemon(tmp_path, machine, start=False)
    leave_a_socket(tmp_path / "actuator.sock")  # what a third one left behind
    path = first.socket if shared == "socket" else tmp_path / "state"
    second = second_at(tmp_path, machine, **{shared: path})
    first.begin()
    second.begin()
    pair = [first, second]
    ended = []
    assert machine.wait(lambda: ended.extend(d for d in pair if d.process.poll()) or ended, 10.0)
    (loser,) = set(ended)
    winner = pair[1 - pair.index(loser)]
    assert loser.process.returncode == 2
    assert "another" in loser.log.read_text()
    if shared == "socket":
        winner.socket = first.socket
    with winner, winner.client(0) as client:
        assert client.reach(MHZ)
    loser.stop()


def test_who_looks_at_a_dead_socket_at_once_takes_it_from_nobody(tmp_path):
    """Sixty races of four processes for one place: never two who both have it, nor none."""
    path = tmp_path / "a.sock"
    for _ in range(60):
        leave_a_socket(path)
        said, over = os.pipe(), os.pipe()
        children = [_race(path, said, over) for _ in range(4)]
        os.close(said[1])
        os.close(over[0])
        outcomes = b"".join(os.read(said[0], 1) for _ in children)
        os.close(over[1])  # whoever has it keeps it until all have tried
        for child in children:
            os.waitpid(child, 0)
        os.close(said[0])
        assert sorted(outcomes) == sorted(b"1000")
        path.unlink(missing_ok=True)


def _race(path, said, over):
    """A process that tries to take a place, says whether it has, and ends when all have said."""
    child = os.fork()
    if child:
        return child
    try:
        os.close(over[1])
        try:
            place = ListeningPlace(path, 0o600, None)
        except ActuatorError:
            place = None
        os.write(said[1], b"0" if place is None else b"1")
        os.read(over[0], 1)
    finally:
        os._exit(0)


def test_a_place_is_taken_as_long_as_its_daemon_lives(tmp_path):
    path = tmp_path / "a.sock"
    first = ListeningPlace(path, 0o600, None)
    path.unlink()
    child = os.fork()
    if child == 0:
        try:
            ListeningPlace(path, 0o600, None)
            os._exit(0)
        except ActuatorError:
            os._exit(7)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    assert first.renewed(time.monotonic(), lambda _: None)
    assert path.is_socket()
    first.listener.close()


@pytest.mark.parametrize("by", ["nothing", "file", "link", "folder gone"])
def test_a_socket_that_is_taken_away_is_made_anew_once_its_place_is_free(by, machine, tmp_path):
    (tmp_path / "run").mkdir()
    daemon = Daemon(tmp_path, machine, start=False)
    daemon.config.write_text(
        daemon.config.read_text().replace("actuator.sock", "run/actuator.sock")
    )
    daemon.socket = tmp_path / "run" / "actuator.sock"
    daemon.begin()
    with daemon:
        daemon.socket.unlink()
        if by == "file":
            daemon.socket.write_text("root's own")
        elif by == "link":
            daemon.socket.symlink_to(tmp_path / "elsewhere.sock")
        elif by == "folder gone":
            shutil.rmtree(tmp_path / "run")
        if by in {"file", "link"}:
            assert machine.wait(lambda: "nobody can connect" in daemon.log.read_text(), 3.0)
            assert by == "link" or daemon.socket.read_text() == "root's own"
            assert not (tmp_path / "elsewhere.sock").exists()
            daemon.socket.unlink()
        assert machine.wait(daemon.socket.is_socket, 3.0), daemon.log.read_text()
        with daemon.client(0) as client:
            assert client.reach(MHZ)


def test_a_stale_mark_of_a_gpu_that_another_daemon_lends_undoes_nothing(machine, tmp_path):
    with Daemon(tmp_path, machine) as first, first.client(0, lease_s=10.0) as client:
        assert client.reach(MHZ)
        second = second_at(tmp_path, machine)
        Journal(second.folder / "state" / "journal").mark(
            uuid_of(0), had_setting=False, clock_mhz=MHZ
        )
        resets = machine.get(0, "D_RESET_CALLS")
        second.begin()
        with second, second.client(1) as other:
            assert other.reach(1200.0)
            assert machine.get(0, "D_RESET_CALLS") == resets
            assert machine.locked_mhz(0) == MHZ
            assert client.reach(900.0)
        assert "driven by another voltana-actuatord" in second.log.read_text()
        assert list(second.journal.glob("*.locked"))


def test_a_stale_mark_is_taken_up_once_the_other_daemon_is_gone(machine, tmp_path):
    claims = Claims(machine.path.parent)
    claims.claim(uuid_of(0))
    machine.lock_from_outside(0, int(MHZ))
    daemon = Daemon(tmp_path, machine, start=False)
    Journal(tmp_path / "state" / "journal").mark(uuid_of(0), had_setting=False, clock_mhz=MHZ)
    daemon.begin()
    with daemon:
        time.sleep(0.3)
        assert machine.locked_mhz(0) == MHZ
        os.close(claims._file)
        assert machine.wait(lambda: not machine.any_locked(), 1.5)


def test_a_configuration_that_is_no_plain_file_is_refused_at_once(machine, tmp_path):
    os.mkfifo(tmp_path / "c.toml", 0o600)  # a reader would wait for ever
    done = run_to_end(machine, tmp_path / "c.toml", "--check")
    assert done.returncode == 2
    assert "not a plain file" in done.stderr
    assert run_to_end(machine, tmp_path, "--check").returncode == 2


@root
def test_a_configuration_that_a_stranger_puts_there_between_check_and_open(tmp_path, monkeypatch):
    """In a folder as /tmp, where names that do not exist yet are anybody's."""
    folder = tmp_path / "sticky"
    folder.mkdir()
    folder.chmod(0o1777)
    path, real = folder / "c.toml", trust.untrusted
    calls = []

    def looks_then_loses(at, **kwargs):
        found = real(at, **kwargs)
        if not calls:
            path.write_text("[[allow]]\nusers = [12001]\n")
            os.chown(path, STRANGER, STRANGER)
        calls.append(at)
        return found

    monkeypatch.setattr(trust, "untrusted", looks_then_loses)
    with pytest.raises(trust.UntrustedError, match=f"belongs to uid {STRANGER}"):
        trust.read_trusted(path)
    assert len(calls) == 2


def test_a_configuration_that_is_exchanged_while_it_is_read(tmp_path):
    path = tmp_path / "c.toml"
    bodies = [tmp_path / "a", tmp_path / "b"]
    ending = threading.Event()

    def exchange():
        while not ending.is_set():
            for number, body in enumerate(bodies):
                body.write_text(f"n = {number}\n" * 2000)
                body.rename(path)

    path.write_text("n = 0\n" * 2000)
    thread = threading.Thread(target=exchange)
    thread.start()
    try:
        for _ in range(1000):
            try:
                text = trust.read_trusted(path)
            except (trust.UntrustedError, OSError):
                continue
            assert len(set(text.splitlines())) == 1
    finally:
        ending.set()
        thread.join()


@pytest.mark.parametrize("what", ["config", "state"])
def test_an_open_folder_behind_a_link_on_the_way(what, machine, tmp_path):
    """The link is root's; what it leads to is everybody's."""
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o777)
    (tmp_path / "open" / "inner").mkdir()
    (tmp_path / "way").symlink_to(tmp_path / "open" / "inner")
    config = tmp_path / "c.toml" if what == "state" else tmp_path / "way" / "c.toml"
    state = tmp_path / "way" / "state" if what == "state" else tmp_path / "state"
    config.write_text(
        f'socket = "{tmp_path / "a.sock"}"\nstate_dir = "{state}"\n'
        f'claims_dir = "{tmp_path}"\n[[allow]]\nusers = [0]\n'
    )
    done = run_to_end(machine, config)
    assert done.returncode == 2
    assert f"others may write to {tmp_path / 'open'}" in done.stderr


def test_a_state_folder_that_becomes_a_link_is_never_written_through(machine, tmp_path):
    with Daemon(tmp_path, machine) as daemon:
        victim = tmp_path / "victim"
        victim.mkdir()
        (victim / "journal").mkdir()
        precious = tmp_path / "precious"
        precious.write_text("root's own")
        (victim / "journal" / f"{uuid_of(1)}.draft").symlink_to(precious)
        with daemon.client(0, lease_s=1.0) as client:
            assert client.reach(MHZ)
            (tmp_path / "state").rename(tmp_path / "state.old")
            (tmp_path / "state").symlink_to(victim)
            with daemon.client(1) as other:
                other.set(MHZ)
                assert machine.wait(lambda: "symbolic link" in other.actuator.status().error)
            assert not machine.locked_mhz(1)
            assert precious.read_text() == "root's own"
        assert machine.wait(lambda: not machine.any_locked(), 1.0)
        (tmp_path / "state").unlink()
        (tmp_path / "state.old").rename(tmp_path / "state")
        with daemon.client(1, patience_s=4.0) as other:
            assert other.reach(MHZ)


def test_marks_of_gpus_that_are_no_more_keep_no_start_waiting(machine, tmp_path):
    journal = Journal(tmp_path / "state" / "journal")
    journal.mark("GPU-dead0000-0000-0000-0000-000000000001", had_setting=False, clock_mhz=MHZ)
    odd = Path(tmp_path / "state" / "journal")
    (odd / "..locked").write_text("")
    (odd / "x y.locked").write_text("{")
    (odd / "GPU-dead0000-0000-0000-0000-000000000002.locked").mkdir()
    with Daemon(tmp_path, machine) as daemon, daemon.client(0) as client:
        assert client.reach(MHZ)
    assert len(journal.marked()) == 2


def test_a_worker_that_starts_too_slowly_gets_longer_the_next_time(machine, tmp_path):
    """A host without a free core: each start takes longer than the first one may."""
    longer_s = START_LIMIT_S + 1.0
    over = threading.Event()

    def hold_up():
        seen = set()
        while not over.wait(0.002):
            worker = daemon.worker()
            if worker and worker not in seen:
                seen.add(worker)
                held = worker
                os.kill(held, signal.SIGSTOP)
                threading.Timer(longer_s, go_on, (held,)).start()

    def go_on(held):
        with contextlib.suppress(ProcessLookupError):  # it was given up
            os.kill(held, signal.SIGCONT)

    daemon = Daemon(tmp_path, machine, start=False)
    daemon.begin()
    host = threading.Thread(target=hold_up)
    host.start()
    try:
        daemon.wait_ready(60.0)
        with daemon.client(0) as client:
            assert client.reach(MHZ)
    finally:
        over.set()
        host.join()
        daemon.stop()
    assert f"no sign of life from the worker for {START_LIMIT_S:.1f} s" in daemon.log.read_text()
