"""The systemd unit as systemd itself reads it."""

from __future__ import annotations

import configparser
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
UNIT = ROOT / "packaging" / "systemd" / "voltana-actuatord.service"

analyze = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed"
)


class Unit(configparser.RawConfigParser):
    """A unit file, whose keys may be given again and again and mean something in one case only."""

    def __init__(self) -> None:
        super().__init__(strict=False, delimiters=("=",), comment_prefixes=("#",))
        self.read(UNIT)

    def optionxform(self, optionstr: str) -> str:
        """Keeps the case."""
        return optionstr


@analyze
def test_systemd_understands_every_key(tmp_path):
    """A program that exists stands in for the daemon, which is not installed here."""
    text = UNIT.read_text().replace("/opt/voltana/bin/voltana-actuatord", sys.executable)
    unit = tmp_path / UNIT.name
    unit.write_text(text)
    done = subprocess.run(
        ["systemd-analyze", "verify", "--recursive-errors=no", str(unit)],
        capture_output=True,
        text=True,
        check=False,
    )
    ours = [line for line in done.stderr.splitlines() if UNIT.name in line]
    assert ours == []


@analyze
def test_the_exposure_is_below_three():
    done = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", str(UNIT)],
        capture_output=True,
        text=True,
        check=False,
    )
    found = re.search(r"exposure level for \S+: ([\d.]+)", done.stdout)
    if found is None:
        pytest.skip("this systemd-analyze does not look at files")
    assert float(found.group(1)) < 3.0


def test_crashes_never_end_it():
    unit = Unit()
    assert unit["Unit"]["StartLimitIntervalSec"] == "0"
    assert "StartLimitIntervalSec" not in unit["Service"]
    assert unit["Service"]["Restart"] == "always"
    assert "--restore" in unit["Service"]["ExecStopPost"]
    assert unit["Service"]["CapabilityBoundingSet"] == "CAP_SYS_ADMIN CAP_SETPCAP CAP_CHOWN"
