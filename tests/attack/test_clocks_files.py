"""Files that others could exchange: the daemon refuses them, and says why."""

from __future__ import annotations

import os
import struct
import subprocess

import pytest

from tests.actuation.daemons import Daemon, run_to_end
from tests.actuation.driver import uuid_of
from voltana_actuatord.daemon.processlist import ProcessList

STRANGER = 12001
root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root to give files away")


@pytest.fixture
def refused(tmp_path, machine):
    """Runs a daemon that should refuse to start; what it says."""

    def run(**changes):
        socket = changes.get("socket", tmp_path / "a.sock")
        state = changes.get("state", tmp_path / "state")
        config = changes.get("config", tmp_path / "c.toml")
        if not config.exists():
            config.write_text(
                f'socket = "{socket}"\nstate_dir = "{state}"\n'
                f'claims_dir = "{changes.get("claims", tmp_path)}"\n[[allow]]\nusers = [0]\n'
            )
            config.chmod(changes.get("mode", 0o644))
        done = run_to_end(machine, config)
        assert done.returncode == 2
        assert len(done.stderr.strip().splitlines()) == 1
        return done.stderr

    return run


@pytest.fixture
def foreign(tmp_path):
    """A folder that belongs to somebody else."""
    folder = tmp_path / "foreign"
    folder.mkdir()
    os.chown(folder, STRANGER, STRANGER)
    return folder


@root
def test_a_socket_in_a_folder_of_somebody_else(refused, foreign):
    assert f"{foreign} belongs to uid {STRANGER}" in refused(socket=foreign / "a.sock")


@root
def test_claims_in_a_folder_of_somebody_else(refused, foreign):
    assert f"{foreign} belongs to uid {STRANGER}" in refused(claims=foreign)


@root
def test_a_state_folder_in_a_folder_of_somebody_else(refused, foreign):
    assert f"{foreign} belongs to uid {STRANGER}" in refused(state=foreign / "deep" / "state")


@root
def test_a_state_folder_of_somebody_else(refused, foreign):
    assert f"{foreign} belongs to uid {STRANGER}" in refused(state=foreign)


@root
def test_a_configuration_of_somebody_else(refused, tmp_path):
    config = tmp_path / "theirs.toml"
    config.write_text("[[allow]]\nusers = [0]\n")
    os.chown(config, STRANGER, STRANGER)
    assert f"belongs to uid {STRANGER}" in refused(config=config)


@pytest.mark.parametrize("mode", [0o666, 0o646])
def test_a_configuration_that_everybody_may_write(mode, refused):
    said = refused(mode=mode)
    assert "others may write" in said
    assert "chmod go-w" in said


def test_a_configuration_in_a_folder_that_everybody_may_write(refused, tmp_path):
    folder = tmp_path / "open"
    folder.mkdir()
    folder.chmod(0o777)
    config = folder / "c.toml"
    config.write_text("[[allow]]\nusers = [0]\n")
    assert f"others may write to {folder}" in refused(config=config)


def list_a_writer(path, tag=0x02):
    """Let a user (or a group) that owns nothing write by an access list, as setfacl does."""
    entries = [(0x01, 7, -1), (0x04, 5, -1), (0x10, 7, -1), (0x20, 5, -1), (tag, 7, STRANGER)]
    packed = b"".join(struct.pack("<HHi", *entry) for entry in sorted(entries))
    try:
        os.setxattr(path, "system.posix_acl_access", struct.pack("<I", 2) + packed)
    except OSError:
        pytest.skip("this file system has no access lists")


@root
@pytest.mark.parametrize("tag", [0x02, 0x08], ids=["user", "group"])
@pytest.mark.parametrize("what", ["state", "config", "folder"])
def test_an_access_list_that_lets_others_write(what, tag, refused, tmp_path):
    """The mode shows root's group and says nothing of whom the list names."""
    folder = tmp_path / "listed"
    folder.mkdir()
    config = folder / "c.toml"
    config.write_text("[[allow]]\nusers = [0]\n")
    list_a_writer({"state": folder, "config": config, "folder": folder}[what], tag)
    said = refused(**({"state": folder} if what == "state" else {"config": config}))
    assert "others may write" in said


@pytest.mark.parametrize("what", ["socket", "state"])
def test_symbolic_links(what, refused, tmp_path):
    (tmp_path / "target").mkdir()
    victim = tmp_path / "victim"
    victim.write_text("root's own")
    victim.chmod(0o600)
    link = tmp_path / "link"
    link.symlink_to(victim if what == "socket" else tmp_path / "target")
    assert "is a symbolic link" in refused(**{what: link})
    assert victim.stat().st_mode & 0o777 == 0o600
    assert victim.read_text() == "root's own"


@root
def test_a_link_of_somebody_else_on_the_way(refused, tmp_path):
    (tmp_path / "real").mkdir()
    link = tmp_path / "way"
    link.symlink_to(tmp_path / "real")
    os.chown(link, STRANGER, STRANGER, follow_symlinks=False)
    assert f"{link} belongs to uid {STRANGER}" in refused(state=link / "state")


@root
def test_a_link_in_the_journals_place(refused, tmp_path):
    (tmp_path / "state").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "state" / "journal").symlink_to(tmp_path / "elsewhere")
    assert "is a symbolic link" in refused()


def test_a_state_folder_that_everybody_may_write(refused, tmp_path):
    (tmp_path / "state").mkdir()
    (tmp_path / "state").chmod(0o777)
    assert "others may write" in refused()


def test_a_socket_that_another_program_listens_at(refused, machine, tmp_path):
    with Daemon(tmp_path, machine) as daemon:
        said = refused(socket=daemon.socket, state=tmp_path / "other")
        assert "another program listens" in said
        with daemon.client() as client:
            assert client.reach(1005.0)


def test_a_socket_that_a_killed_daemon_left_behind_is_taken(machine, tmp_path):
    daemon = Daemon(tmp_path, machine)
    daemon.wait_ready()
    os.killpg(daemon.process.pid, 9)
    daemon.stop()
    assert daemon.socket.exists()
    (tmp_path / "notify.sock").unlink()
    with Daemon(tmp_path, machine) as again, again.client() as client:
        assert client.reach(1005.0)


def test_the_sockets_mode_holds_from_its_first_moment(machine, tmp_path):
    with Daemon(tmp_path, machine, head='socket_mode = "0640"') as daemon:
        assert daemon.socket.stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize("where", ["list", "mark", "lock", "claims"])
def test_a_pipe_in_the_place_of_a_file_holds_nobody_up(where, machine, tmp_path):
    """Whoever opens a pipe that nobody else has open waits for ever, unless he says otherwise."""
    daemon = Daemon(tmp_path, machine, start=False)
    state, claims = tmp_path / "state", machine.path.parent
    (state / "journal").mkdir(parents=True, mode=0o700)
    os.mkfifo(
        {
            "list": ProcessList(claims, state).path,
            "mark": state / "journal" / f"{uuid_of(0)}.locked",
            "lock": state / "lock",
            "claims": claims / "gpus.lock",
        }[where]
    )
    daemon.begin()
    with daemon, daemon.client() as client:
        assert client.reach(1005.0)


@pytest.fixture
def bystander():
    """A process that no daemon has started."""
    with subprocess.Popen(["sleep", "60"]) as process:
        yield process
        process.kill()


@pytest.mark.parametrize("trusted", [True, False])
def test_a_list_of_processes_that_others_could_have_written_kills_nobody(
    trusted, bystander, tmp_path
):
    folder = tmp_path / "claims"
    folder.mkdir()
    left = ProcessList(folder, tmp_path / "state")
    left.note([bystander.pid])
    parent, *rest = left.path.read_text().splitlines(keepends=True)
    assert int(parent) == os.getpid()
    assert not left.kill_left_over(lambda _: None)  # its parent lives
    left.path.write_text("".join(["1\n", *rest]))
    folder.chmod(0o755 if trusted else 0o777)
    assert left.kill_left_over(lambda _: None) is trusted
    assert (bystander.wait(5) == -9) if trusted else (bystander.poll() is None)
