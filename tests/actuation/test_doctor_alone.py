"""The doctor that comes with the daemon alone says what the core's says."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

ALONE = "from voltana_actuatord.entry import main; raise SystemExit(main())"
CORE = "from voltana.cli.main import main; main()"


@pytest.fixture
def run(machine):
    def run_code(code, *arguments):
        return subprocess.run(
            [sys.executable, "-c", code, *arguments],
            env=machine.environment(),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    return run_code


def steady(text):
    """Without the figures that change from one reading to the next."""
    return [line for line in text.splitlines() if " W" not in line and "MHz" not in line]


def test_both_doctors_say_the_same(machine, daemon, run):
    socket = ("--socket", str(daemon.socket))
    alone, core = run(ALONE, "doctor", *socket), run(CORE, "actuator", "doctor", *socket)
    assert (alone.returncode, alone.stderr) == (0, "")
    assert "answers at" in alone.stdout
    assert len(alone.stdout.splitlines()) == len(core.stdout.splitlines())
    assert steady(alone.stdout) == steady(core.stdout)
    assert not machine.set_calls()


def test_what_is_missing_is_exit_status_1(machine, run, tmp_path):
    machine.set(0, "D_PERSISTENCE", 0)
    done = run(ALONE, "doctor", "--json", "--socket", str(tmp_path / "none.sock"))
    assert done.returncode == 1
    findings = json.loads(done.stdout)["findings"]
    missing = [finding["text"] for finding in findings if finding["verdict"] == "missing"]
    assert any("Start voltana-actuatord" in text for text in missing)


def test_the_daemon_s_command_is_what_it_was(run, tmp_path):
    done = run(ALONE, "--check", "--config", str(tmp_path / "none.toml"))
    assert done.returncode == 2
    assert done.stderr.startswith("voltana-actuatord: ")
    assert "cannot be read" in done.stderr
