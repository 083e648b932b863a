"""`voltana actuator` in real processes."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest

from tests.actuation.driver import uuid_of
from voltana.plant import load_hardware

if TYPE_CHECKING:
    from collections.abc import Callable


@pytest.fixture
def voltana(machine) -> Callable[..., subprocess.CompletedProcess[str]]:
    def run(*arguments, **environment):
        return subprocess.run(
            [sys.executable, "-c", "from voltana.cli.main import main; main()", *arguments],
            env=machine.environment(**environment),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    return run


def test_status_lease_and_restore(machine, daemon, voltana):
    socket = ("--socket", str(daemon.socket))
    assert "no leases" in voltana("actuator", "status", *socket).stdout
    with daemon.client(1, lease_s=10.0) as client:
        assert client.reach(1005.0)
        said = voltana("actuator", "status", *socket).stdout
        assert f"{uuid_of(1)}, pid" in said
        assert "1005 MHz" in said
        answer = json.loads(voltana("actuator", "status", "--json", *socket).stdout)
        assert answer["leases"][0]["devices"] == [uuid_of(1)]
        assert f"restored: {uuid_of(1)}" in voltana("actuator", "restore", *socket).stdout
        assert machine.wait(lambda: not machine.any_locked())
        client.set(1005.0)
        time.sleep(0.1)  # the operator's word holds for a moment
        assert not machine.any_locked()
    held = voltana("actuator", "lease", "900", "--gpus", "0", "--seconds", "0.7", *socket)
    assert held.returncode == 0, held.stderr
    assert "running at 900 MHz" in held.stdout
    assert machine.wait(lambda: not machine.any_locked())


def test_a_lease_that_somebody_else_has_is_refused_in_one_line(machine, daemon, voltana):
    with daemon.client(0, lease_s=10.0) as client:
        assert client.reach(1005.0)
        socket = ("--socket", str(daemon.socket))
        done = voltana("actuator", "lease", "900", "--gpus", "0", "--seconds", "0.7", *socket)
    assert done.returncode == 2, done.stdout
    assert "stop that one first" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert "running at 900 MHz" not in done.stdout


def test_restore_without_a_daemon(machine, in_process, voltana):
    in_process(
        "from voltana_actuatord.drivers.opening import open_driver\n"
        "open_driver().gpu(0).lock(900, 900)\nanswer = 0"
    )
    assert machine.any_locked()
    assert voltana("actuator", "restore", "--direct", "0,1").returncode == 0
    assert not machine.any_locked()


def test_errors_are_one_line_with_a_remedy(voltana, tmp_path):
    nowhere = str(tmp_path / "none.sock")
    for arguments, says in (
        (("status", "--socket", nowhere), "systemctl start voltana-actuatord"),
        (("restore", "--socket", nowhere), "systemctl start voltana-actuatord"),
        (("lease", "900", "--socket", nowhere), "Start voltana-actuatord"),
        (("lease", "900", "--gpus", "0,x"), "nvidia-smi -L"),
        (("lease", "900", "--gpus", "MIG-0"), "disable MIG"),
        (("lease", "900", "--gpus", "0,0"), "Name each once"),
        (("lease", "900", "--gpus", "7"), "Or give UUIDs"),
        (("doctor", "--profile", "a100-sxm4-80gb"), "Give all three"),
    ):
        done = voltana("actuator", *arguments)
        assert done.returncode == 2
        assert len(done.stderr.splitlines()) == 1
        assert says in done.stderr


def test_serve_says_what_is_wrong_with_its_configuration(voltana, tmp_path):
    config = tmp_path / "c.toml"
    for text, says in (
        ("nonsense = 1", "unknown key 'nonsense'"),
        ("silence_s = 9.0", "silence_s = 9.0 is not allowed"),
        ('socket = "relative"', "must be an absolute path"),
        ("[[allow]]\ngpus = ['GPU-0']", "name at least one user or group"),
        ('[[allow]]\nusers = ["no-such-user"]', "user 'no-such-user' does not exist"),
        ("[[allow]]\nusers = [1]\nmin_mhz = 9.0\nmax_mhz = 8.0", "min_mhz is above max_mhz"),
        ("[[allow]]\nusers = [1]\ngpus = [0]", "0 is an index. An index means another GPU"),
        ("[[allow]]\nusers = [1]\ngpus = ['MIG-1']", "a part of a GPU"),
        ("driver = 'no_such_driver'", "driver = 'no_such_driver' is not allowed"),
        ("[", "not valid TOML"),
    ):
        config.write_text(text)
        done = voltana("actuator", "serve", "--config", str(config))
        assert done.returncode == 2, done.stderr
        assert says in done.stderr
    done = voltana("actuator", "serve", "--config", str(tmp_path / "absent.toml"))
    assert "cannot be read" in done.stderr


def test_doctor_on_a_sound_machine(daemon, voltana):
    done = voltana("actuator", "doctor", "--socket", str(daemon.socket))
    assert done.returncode == 0, done.stdout + done.stderr
    for text in (
        "version 999.0.fake",
        "81 clocks of 210-1410 MHz",
        "settings are kept (persistence mode)",
    ):
        assert text in done.stdout
    assert "answers at" in done.stdout


def test_doctor_names_what_is_missing(machine, voltana, tmp_path):
    machine.set(0, "D_PERSISTENCE", 0)
    machine.set(1, "D_MIG", 1)
    done = voltana("actuator", "doctor", "--socket", str(tmp_path / "none.sock"))
    assert done.returncode == 1
    for text in ("nvidia-smi -pm 1", "Disable MIG", "Start voltana-actuatord"):
        assert text in done.stdout
    machine.header("H_DRIVER_LOADED", 0)
    assert "modprobe nvidia" in voltana("actuator", "doctor").stdout


def test_doctor_changes_nothing_unless_asked(machine, voltana):
    voltana("actuator", "doctor")
    assert not machine.set_calls()
    assert not machine.get(0, "D_RESET_CALLS")


def test_doctor_measures_into_a_profile(machine, voltana, tmp_path):
    machine.set(0, "D_CALL_US", 4_000)
    machine.set(0, "D_SETTLE_US", 30_000)
    out = tmp_path / "mine.toml"
    options = ("--measure", "--profile", "a100-sxm4-80gb", "--out", str(out), "--json")
    done = voltana("actuator", "doctor", *options)
    timings = json.loads(done.stdout)["timings"]
    assert len(timings) == 6
    for timing in timings:
        assert 0.004 <= timing["call_s"] < 0.05
        assert 0.02 <= timing["settle_s"] < 0.1
    assert not machine.any_locked()
    shipped, mine = load_hardware("a100-sxm4-80gb"), load_hardware(out)
    assert mine.clocks.call_s == pytest.approx(timings[0]["call_s"], rel=1.0)
    assert len(mine.clocks.pairs) == 6
    assert "Fake A100" in mine.clocks.provenance.source
    assert mine.model_copy(update={"clocks": shipped.clocks}) == shipped


def test_doctor_does_not_measure_a_gpu_that_is_in_use(machine, daemon, voltana):
    with daemon.client(lease_s=10.0) as client:
        assert client.reach(1005.0)
        done = voltana("actuator", "doctor", "--measure", "--socket", str(daemon.socket))
        assert done.returncode == 2
        assert "Stop its owner first" in done.stderr
        assert len(machine.set_calls()) == 1


def test_doctor_says_that_an_idle_gpu_cannot_be_measured(machine, voltana, tmp_path):
    machine.set(0, "D_BUSY", 0)
    machine.fault(0, "F_SET", "K_SILENT")
    options = ("--measure", "--profile", "a100-sxm4-80gb", "--out", str(tmp_path / "x.toml"))
    done = voltana("actuator", "doctor", *options, "--levels", "1395,1410")
    assert done.returncode == 2
    assert "Keep the GPU busy" in done.stderr
