"""Other tools that set clocks, before a lease and during one; MIG; two daemons on one GPU."""

from __future__ import annotations

import time

import pytest

from tests.actuation.daemons import Daemon
from tests.actuation.driver import uuid_of
from tests.attack.clock_honesty import HonestLoop, assert_unharmed
from voltana_actuatord.console import daemon_status
from voltana_actuatord.faults import LeaseRefusedError

MHZ, THEIRS_MHZ = 1005.0, 900


def stays(machine, clock_mhz, seconds=1.0):
    ends_s = time.monotonic() + seconds
    while time.monotonic() < ends_s:
        if machine.locked_mhz(0) != clock_mhz:
            return False
        time.sleep(0.01)
    return True


@pytest.fixture
def honest(machine, daemon):
    with HonestLoop(daemon) as loop:
        yield loop


def step_until(client, condition, seconds=8.0):
    """Step at one clock until the client is told something; whether it was."""
    ends_s = time.monotonic() + seconds
    while time.monotonic() < ends_s:
        if condition(client.actuator.status().error):
            return True
        client.set(MHZ)
        time.sleep(0.05)
    return False


def test_a_foreign_lock_before_a_lease_is_reported_and_left_alone(machine, daemon, honest):
    quiet_s = honest.times_s(0.4)
    machine.lock_from_outside(0, THEIRS_MHZ)
    with pytest.raises(LeaseRefusedError, match="another tool has set the clock"):
        daemon.client(0, patience_s=0.0)
    assert stays(machine, THEIRS_MHZ)
    (note,) = [gpu["note"] for gpu in daemon_status(daemon.socket)["gpus"] if gpu["note"]]
    assert "another tool" in note
    machine.set(0, "D_LOCK", 0)
    with daemon.client(0) as client:
        assert client.reach(MHZ)
    assert_unharmed(honest, quiet_s, honest.times_s(0.4))


def test_a_foreign_lock_may_be_allowed(machine, tmp_path):
    machine.lock_from_outside(0, THEIRS_MHZ)
    with Daemon(tmp_path, machine, head='foreign_clocks = "allow"') as daemon:
        with daemon.client(0) as client:
            assert client.reach(MHZ)
        assert machine.wait(lambda: not machine.any_locked())


@pytest.mark.parametrize("end", ["close", "worker", "everything"])
def test_the_operators_clock_is_put_back_where_it_is_named(end, machine, tmp_path):
    import os
    import signal

    machine.lock_from_outside(0, THEIRS_MHZ)
    allow = (
        f"[[baseline]]\ngpus = ['{uuid_of(0)}']\nclock_mhz = {THEIRS_MHZ}.0\n"
        f"[[allow]]\nusers = [{os.geteuid()}]\n"
    )
    with Daemon(tmp_path, machine, allow=allow, init=end == "everything") as daemon:
        client = daemon.client(0)
        assert client.reach(MHZ)
        if end == "everything":
            os.killpg(daemon.process.pid, signal.SIGKILL)
        elif end == "worker":
            os.kill(daemon.worker(), signal.SIGKILL)
        client.actuator.close()
        assert machine.wait(lambda: machine.locked_mhz(0) == THEIRS_MHZ)
        assert stays(machine, THEIRS_MHZ, 0.5)
        with daemon.client(0) as again:
            assert again.reach(MHZ)
        assert machine.wait(lambda: machine.locked_mhz(0) == THEIRS_MHZ)


def test_a_tool_that_sets_the_clock_during_a_lease_ends_it_and_keeps_its_own(
    machine, daemon, honest
):
    quiet_s = honest.times_s(0.4)
    with daemon.client(0) as client:
        assert client.reach(MHZ)
        machine.lock_from_outside(0, THEIRS_MHZ)
        assert step_until(client, lambda error: "another tool" in error)
        assert f"{THEIRS_MHZ} MHz" in client.actuator.status().error
        assert stays(machine, THEIRS_MHZ)
    assert stays(machine, THEIRS_MHZ)
    machine.set(0, "D_LOCK", 0)
    with daemon.client(0) as again:
        assert again.reach(MHZ)
    assert_unharmed(honest, quiet_s, honest.times_s(0.4))


def test_mig_during_a_lease_ends_it(machine, daemon, honest):
    with daemon.client(0) as client:
        assert client.reach(MHZ)
        machine.set(0, "D_MIG", 1)
        assert step_until(client, lambda error: "MIG" in error)
        assert machine.wait(lambda: not machine.locked_mhz(0))
    with pytest.raises(LeaseRefusedError, match="MIG mode"):
        daemon.client(0, patience_s=2.5)  # it rests for a moment first
    machine.set(0, "D_MIG", 0)
    with daemon.client(0) as again:
        assert again.reach(MHZ)


def test_mig_is_seen_under_a_client_that_never_rests(machine, daemon):
    with daemon.client(0) as client:
        assert client.reach(MHZ)
        machine.set(0, "D_MIG", 1)
        table, ends_s = client.actuator.table(), time.monotonic() + 5.0
        while "MIG" not in client.actuator.status().error and time.monotonic() < ends_s:
            client.set(table[client.steps % len(table)])
            time.sleep(0.005)
        assert "MIG" in client.actuator.status().error
        assert machine.wait(lambda: not machine.locked_mhz(0))


def test_a_foreign_power_cap_is_reported(make_machine, tmp_path):
    machine = make_machine(D_CAP_MW=250_000)
    with Daemon(tmp_path, machine) as daemon, daemon.client(0):
        (gpu,) = daemon_status(daemon.socket)["gpus"]
        assert "250 W; its default is 400 W" in gpu["note"]


def test_a_foreign_power_cap_during_a_lease_is_reported_as_long_as_it_stands(
    machine, daemon, honest
):
    """The lease goes on, since the clock is ours; who limited the board is to be seen meanwhile."""

    def noted():
        return " ".join(gpu["note"] for gpu in daemon_status(daemon.socket)["gpus"])

    quiet_s = honest.times_s(0.4)
    with daemon.client(0) as client:
        assert client.reach(MHZ)
        for cap_w, says in ((250, "to 250 W; its default is 400 W"), (300, "to 300 W")):
            machine.set(0, "D_CAP_MW", 1000 * cap_w)
            assert machine.wait(lambda says=says: client.reach(MHZ) and says in noted())
        machine.set(0, "D_CAP_MW", 400_000)
        assert machine.wait(lambda: client.reach(MHZ) and "default is" not in noted())
        assert daemon_status(daemon.socket)["counters"]["revoked"] == 0
    assert_unharmed(honest, quiet_s, honest.times_s(0.4))


def test_mig_on_one_gpu_of_a_domain_gives_back_both(machine, daemon):
    with daemon.client(0, 1) as client:
        assert client.reach(MHZ)
        machine.set(1, "D_MIG", 1)
        assert step_until(client, lambda error: "MIG" in error)
        assert machine.wait(lambda: not machine.any_locked())
    with daemon.client(0) as sound:
        assert sound.reach(MHZ)


def test_a_tool_that_sets_clocks_without_end_has_the_last_word(machine, daemon):
    with daemon.client(0) as client:
        assert client.reach(MHZ)
        for _ in range(100):
            machine.lock_from_outside(0, THEIRS_MHZ)
            client.set(MHZ)
            time.sleep(0.01)
        assert machine.wait(lambda: client.actuator.status().error)
    time.sleep(0.5)
    machine.lock_from_outside(0, THEIRS_MHZ)
    assert stays(machine, THEIRS_MHZ)
    machine.set(0, "D_LOCK", 0)
    with daemon.client(0) as again:
        assert again.reach(MHZ)


@pytest.mark.parametrize(
    ("claims", "says"),
    [(None, "driven by another voltana-actuatord"), ("apart", "another tool has set the clock")],
)
def test_two_daemons_with_folders_of_their_own_do_not_share_a_gpu(machine, tmp_path, claims, says):
    (tmp_path / "second").mkdir()
    claims = claims and tmp_path / claims
    with Daemon(tmp_path, machine) as first, first.client(0, lease_s=10.0) as client:
        assert client.reach(MHZ)
        with (
            Daemon(tmp_path / "second", machine, claims=claims) as second,
            pytest.raises(LeaseRefusedError, match=says),
        ):
            second.client(0, patience_s=0.0)
        assert client.reach(1200.0)


def test_two_daemons_side_by_side_know_of_each_other(machine, tmp_path):
    with Daemon(tmp_path, machine) as first:
        first.client(0).actuator.close()  # no clock is set, but the GPU is taken
        notify = tmp_path / "notify.sock"
        notify.unlink()
        config = first.config.read_text()
        second = Daemon(tmp_path, machine, start=False)
        second.socket = tmp_path / "second.sock"
        second.config = tmp_path / "second.toml"
        second.config.write_text(
            config.replace("actuator.sock", "second.sock").replace('/state"', '/state2"')
        )
        second.begin()
        with second:
            with pytest.raises(LeaseRefusedError, match="driven by another voltana-actuatord"):
                second.client(0, patience_s=0.0)
            with second.client(1) as client:
                assert client.reach(MHZ)


# --- boards that are delivered with an application clock below their fastest


@pytest.fixture(params=[0, 1], ids=["holds", "boosts"])
def delivered(request, make_machine, tmp_path):
    """Two of them, and a daemon."""
    machine = make_machine(D_APP_MHZ=1155, D_APP_DEFAULT_MHZ=1155, D_APP_BOOSTS=request.param)
    with Daemon(tmp_path, machine) as daemon:
        yield machine, daemon


def state_of(daemon, device=0):
    gpus = daemon_status(daemon.socket)["gpus"]
    return next((gpu["state"] for gpu in gpus if gpu["uuid"] == uuid_of(device)), "")


@pytest.mark.parametrize("clock_mhz", [1155.0, 1005.0, 1305.0])
def test_a_board_as_it_is_delivered_is_lent_and_comes_back(clock_mhz, delivered):
    """The event reason for a setting is given for ever; one clock is its very default."""
    machine, daemon = delivered
    for _ in range(2):
        with daemon.client(0) as client:
            assert client.reach(clock_mhz)
        assert machine.wait(lambda: not machine.any_locked())
        assert machine.wait(lambda: state_of(daemon) == "default", 2.0), state_of(daemon)
    assert "another tool" not in daemon.log.read_text()


def test_an_ignored_reset_is_seen_on_such_a_board(delivered):
    machine, daemon = delivered
    client = daemon.client(0, lease_s=0.5)
    assert client.reach(MHZ)
    machine.fault(0, "F_RESET", "K_SILENT")
    client.actuator.close()
    assert machine.wait(lambda: state_of(daemon) == "doubtful", 8.0)
    assert machine.locked_mhz(0) == MHZ
    machine.clear_faults()
    assert machine.wait(lambda: not machine.locked_mhz(0), 8.0)
    assert machine.wait(lambda: state_of(daemon) == "default", 8.0)


@pytest.mark.parametrize("word", ["D_APP_MHZ", "D_LOCK"])
def test_a_lowered_application_clock_and_a_lock_are_foreign_there(word, delivered):
    machine, daemon = delivered
    theirs = THEIRS_MHZ if word == "D_APP_MHZ" else THEIRS_MHZ << 32 | THEIRS_MHZ << 16 | THEIRS_MHZ
    machine.set(0, word, theirs)
    with pytest.raises(LeaseRefusedError, match="another tool has set the clock"):
        daemon.client(0, patience_s=0.0)
    machine.set(0, word, 1155 if word == "D_APP_MHZ" else 0)
    with daemon.client(0) as client:
        assert client.reach(MHZ)
        machine.lock_from_outside(0, THEIRS_MHZ)
        assert step_until(client, lambda error: "another tool" in error)
        assert stays(machine, THEIRS_MHZ)


def test_an_application_clock_that_is_lowered_during_a_lease_leaves_no_doubt(machine, daemon):
    """A lock supersedes it; afterwards it is what the GPU runs at, and no lock of ours."""
    with daemon.client(0) as client:
        assert client.reach(MHZ)
        machine.set(0, "D_APP_MHZ", THEIRS_MHZ)
        assert client.reach(1200.0)
    assert machine.wait(lambda: state_of(daemon) == "default", 2.0), state_of(daemon)
    with pytest.raises(LeaseRefusedError, match="another tool has set the clock"):
        daemon.client(0, patience_s=0.0)


@pytest.mark.parametrize("kind", ["K_HANG", "K_CODE"])
def test_application_clocks_that_cannot_be_read_keep_no_clock_locked(kind, machine, daemon):
    with daemon.client(0, lease_s=1.0) as client:
        assert client.reach(MHZ)
        machine.fault(0, "F_APPLICATION", kind, 999 if kind == "K_CODE" else 0)
    assert machine.wait(lambda: not machine.locked_mhz(0), 2.0)
    machine.clear_faults()
    with daemon.client(0, patience_s=4.0) as again:
        assert again.reach(MHZ)
