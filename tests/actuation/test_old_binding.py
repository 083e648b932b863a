"""An old pynvml package in the way of nvidia-ml-py is named in one line, wherever it is met."""

from __future__ import annotations

import subprocess
import sys

import pytest

SAYS = "an old pynvml package shadows nvidia-ml-py: pip uninstall pynvml"


@pytest.fixture
def shadowed(tmp_path, machine):
    """Runs a program where the deprecated package, which lacks newer names, comes first."""
    old = tmp_path / "old" / "pynvml"
    old.mkdir(parents=True)
    (old / "__init__.py").write_text("class NVMLError(Exception): pass\ndef nvmlInit(): pass\n")
    paths = [str(old.parent), *sys.path]

    def run(*arguments):
        return subprocess.run(
            [sys.executable, *arguments],
            env=machine.environment(PYTHONPATH=":".join(filter(None, paths))),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    return run


def test_the_daemon_does_not_start(shadowed, tmp_path):
    config = tmp_path / "c.toml"
    config.write_text(
        f'state_dir = "{tmp_path / "state"}"\nsocket = "{tmp_path / "a.sock"}"\n'
        f'claims_dir = "{tmp_path}"\n'
    )
    done = shadowed("-m", "voltana_actuatord.daemon.command", "--config", str(config))
    assert done.returncode == 2
    assert done.stderr.splitlines() == [f"voltana-actuatord: {SAYS}"]


@pytest.mark.parametrize("arguments", [("doctor",), ("lease", "900"), ("restore", "--direct", "0")])
def test_the_command_line_says_so(arguments, shadowed):
    program = "from voltana.cli.main import main; main()"
    done = shadowed("-c", program, "actuator", *arguments)
    assert done.returncode != 0
    assert len([line for line in (done.stdout + done.stderr).splitlines() if SAYS in line]) == 1
    assert "Traceback" not in done.stderr


def test_what_needs_no_driver_goes_on(shadowed):
    program = (
        "from voltana.actuators import ActuatorProcess, DryRun, EnergyMeter, gpu_clock_table\n"
        "from voltana.errors import VoltanaError\n"
        "try:\n    gpu_clock_table(0)\nexcept VoltanaError as error:\n    print(error)"
    )
    done = shadowed("-c", program)
    assert done.returncode == 0, done.stderr
    assert SAYS in done.stdout
