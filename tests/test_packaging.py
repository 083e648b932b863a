"""The service as it is documented: one path, one group, in unit, configuration and instructions."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

from voltana.serving.config import parse_config
from voltana_sglang.config import SglangConfig

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


def test_the_page_of_operations_installs_what_every_unit_starts_and_reads() -> None:
    page = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
    units = sorted((ROOT / "packaging" / "systemd").glob("*.service"))
    assert len(units) == 5
    for unit in units:
        text = unit.read_text(encoding="utf-8")
        assert f"`{unit.stem.removesuffix('@')}" in page, unit.name
        for environment, program in re.findall(
            r"^Exec\w+=(/opt/\w+)/bin/(\S+)", text, re.MULTILINE
        ):
            assert f"python3 -m venv {environment}\n" in page
            installed = {
                "voltana-actuatord": "./packages/actuatord",
                "voltana-sglang": "'./integrations/sglang[serving]'",
            }[program]
            assert f"{environment}/bin/pip install {installed}\n" in page
        for read in re.findall(r"(/etc/voltana/\S+\.toml)", text):
            name = read.rpartition("/")[2]
            assert re.search(rf"install .*packaging/systemd/{name} {read}", page), read
        for user in re.findall(r"^User=(\S+)", text, re.MULTILINE):
            made = (ROOT / "packaging" / "systemd" / "sysusers.conf").read_text(encoding="utf-8")
            assert re.search(rf"^u {user}\s", made, re.MULTILINE)


def test_the_cluster_file_that_comes_with_the_units_is_one_and_touches_nothing() -> None:
    file = ROOT / "packaging" / "systemd" / "cluster.toml"
    config = parse_config(tomllib.loads(file.read_text("utf-8")), SglangConfig)
    assert config.actuator.kind == "dry-run"
    assert config.launch is not None
    assert config.agent.metrics_port
    assert config.router.metrics_port
