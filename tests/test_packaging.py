"""The service as it is documented: one path, one group, in unit, configuration and instructions."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
UNIT = (ROOT / "packaging" / "systemd" / "voltana-actuatord.service").read_text(encoding="utf-8")
CONFIG = tomllib.loads((ROOT / "packaging" / "systemd" / "actuatord.toml").read_text("utf-8"))
DOCS = (ROOT / "docs" / "actuation.md").read_text(encoding="utf-8")


def test_the_unit_starts_what_the_instructions_install() -> None:
    (environment,) = re.findall(r"python3 -m venv (\S+)", DOCS)
    starts = re.findall(r"^Exec\w+=(\S+)", UNIT, re.MULTILINE)
    assert set(starts) == {f"{environment}/bin/voltana-actuatord"}
    assert f"{environment}/bin/pip install ./packages/actuatord" in DOCS


def test_the_group_of_the_configuration_is_created_by_the_instructions() -> None:
    groups = {CONFIG["socket_group"], *(g for rule in CONFIG["allow"] for g in rule["groups"])}
    assert groups == set(re.findall(r"groupadd --system (\S+)", DOCS))


def test_the_configuration_is_installed_where_the_unit_reads_it() -> None:
    (read,) = set(re.findall(r"--config (\S+)", UNIT))
    assert f"packaging/systemd/actuatord.toml {read}" in DOCS
