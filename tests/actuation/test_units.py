"""The systemd units as systemd itself reads them."""

from __future__ import annotations

import configparser
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "packaging" / "systemd"
UNIT = FOLDER / "voltana-actuatord.service"
UNITS = sorted(FOLDER.glob("*.service"))

analyze = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed"
)


class Unit(configparser.RawConfigParser):
    """A unit file, whose keys may be given again and again and mean something in one case only."""

    def __init__(self, unit: Path = UNIT) -> None:
        super().__init__(strict=False, delimiters=("=",), comment_prefixes=("#",))
        self.read(unit)

    def optionxform(self, optionstr: str) -> str:
        """Keeps the case."""
        return optionstr


@analyze
@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.stem)
def test_systemd_understands_every_key(unit, tmp_path):
    """A program that exists stands in for ours, which are not installed here."""
    copied = tmp_path / unit.name.replace("@.", "@decode-0.")
    copied.write_text(re.sub(r"/opt/\w+/bin/[\w-]+", sys.executable, unit.read_text()))
    done = subprocess.run(
        ["systemd-analyze", "verify", "--recursive-errors=no", str(copied)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert [line for line in done.stderr.splitlines() if copied.name in line] == []


@analyze
@pytest.mark.parametrize(
    ("unit", "most"),
    [
        ("voltana-actuatord", 3.0),
        ("voltana-actuatord-metrics", 2.5),
        ("voltana-router", 3.0),
        ("voltana-agent@", 4.0),
    ],
)
def test_the_exposure_is_small(unit, most):
    file = FOLDER / f"{unit}.service"
    done = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", str(file)],
        capture_output=True,
        text=True,
        check=False,
    )
    found = re.search(r"exposure level for \S+: ([\d.]+)", done.stdout)
    if found is None:
        pytest.skip("this systemd-analyze does not look at files")
    assert float(found.group(1)) < most


def test_crashes_never_end_it():
    unit = Unit()
    assert unit["Unit"]["StartLimitIntervalSec"] == "0"
    assert "StartLimitIntervalSec" not in unit["Service"]
    assert unit["Service"]["Restart"] == "always"
    assert "--restore" in unit["Service"]["ExecStopPost"]
    assert unit["Service"]["CapabilityBoundingSet"] == "CAP_SYS_ADMIN CAP_SETPCAP CAP_CHOWN"


@pytest.mark.parametrize("path", UNITS, ids=lambda unit: unit.stem)
def test_no_number_of_crashes_ends_any_of_them(path):
    """Nor a SIGKILL; systemd ignores the key in any other section, and then gives up after five."""
    unit = Unit(path)
    assert unit["Unit"]["StartLimitIntervalSec"] == "0"
    assert not [key for key in unit["Service"] if key.startswith("StartLimit")]
    assert unit["Service"]["Restart"] in {"always", "on-failure"}
    assert unit["Service"]["RestartSec"] in {"100ms", "2s"}


@pytest.mark.parametrize("unit", [u for u in UNITS if u != UNIT], ids=lambda unit: unit.stem)
def test_all_but_the_daemon_are_users_without_privilege(unit):
    service = Unit(unit)["Service"]
    assert service["User"] in {"voltana", "voltana-metrics"}
    assert service["NoNewPrivileges"] == "yes"
    assert service.get("CapabilityBoundingSet", "") == ""


def test_what_tells_figures_may_set_no_clock():
    """It is in the group that may ask, and not in the one that may set clocks."""
    assert Unit(FOLDER / "voltana-actuatord-metrics.service")["Service"]["SupplementaryGroups"] == (
        "voltana-status"
    )
    rules = tomllib.loads((FOLDER / "actuatord.toml").read_text())["allow"]
    assert {group: rule["gpus"] for rule in rules for group in rule["groups"]} == {
        "voltana": "all",
        "voltana-status": [],
    }
    members = re.findall(r"^m (\S+)\s+(\S+)$", (FOLDER / "sysusers.conf").read_text(), re.M)
    assert ("voltana-metrics", "voltana") not in members
    assert ("voltana-metrics", "voltana-status") in members
