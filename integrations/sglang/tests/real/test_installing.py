"""What installing the plugin would do to the environment of a real SGLang: add our own, no more."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib import metadata
from pathlib import Path

FOLDER = Path(__file__).resolve().parents[2]
OWN = {"voltana-ring", "voltana-sglang"}
PIP = (sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "-q", "--dry-run")


def test_the_plugin_adds_our_own_distributions_and_changes_no_version(tmp_path: Path) -> None:
    """Not even where every upgrade of what it needs is allowed."""
    assert metadata.version("sglang")
    report = tmp_path / "report.json"
    eager = ("--upgrade", "--upgrade-strategy", "eager", "--report", str(report))
    done = subprocess.run(
        [*PIP, *eager, str(FOLDER)], capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, done.stderr
    installs = json.loads(report.read_text())["install"]
    assert {item["metadata"]["name"] for item in installs} == OWN
