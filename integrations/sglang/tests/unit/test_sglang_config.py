from __future__ import annotations

from pathlib import Path

import pytest

from voltana.errors import ConfigError, VoltanaError
from voltana.serving.config import parse_config, read_config


def test_an_empty_file_is_a_dry_run():
    config = parse_config({})
    assert config.actuator.kind == "dry-run"
    assert (config.thresholds().ttft_s, config.thresholds().itl_s) == (0.6, 0.065)


def test_paths_are_relative_to_the_file(tmp_path):
    (tmp_path / "v.toml").write_text('[agent]\nstate = "learned"\n[policy]\nprofile = "p.json"\n')
    config = read_config(tmp_path / "v.toml")
    assert config.agent.state == tmp_path / "learned"
    assert config.policy.profile == tmp_path / "p.json"


@pytest.mark.parametrize(
    ("tables", "said"),
    [
        ({"agnet": {}}, "unknown key 'agnet'"),
        ({"slo": {"ttft": 1}}, r"unknown key in \[slo\] 'ttft'"),
        ({"slo": {"itl_ms": -1}}, "slo.itl_ms = -1 is not allowed: must be above 0"),
        ({"actuator": {"kind": "gpu"}}, "actuator.kind = 'gpu' .* must be 'dry-run', 'daemon'"),
        ({"agent": {"host": "0.0.0.0"}}, "agent.host"),
        ({"agent": {"idle_tick_s": 2.0}}, "agent.idle_tick_s = 2.0 .* at most 0.5"),
        ({"engine": {"hardware": "h100-sxm"}}, "both or neither"),
        ({"instance": [{"name": "a"}, {"name": "a"}]}, "instance.name = 'a' .* unique"),
        ({"instance": [{"name": "../a"}]}, "letters, digits"),
        ({"router": {"prot": 1}}, "unknown key in .router. 'prot'"),
    ],
)
def test_mistakes_are_named_with_their_remedy(tables, said):
    with pytest.raises(VoltanaError, match=said):
        parse_config(tables)


def test_files_that_cannot_be_read_are_named(tmp_path):
    with pytest.raises(ConfigError, match="cannot be read: No such file"):
        read_config(Path("/nonexistent/v.toml"))
    (tmp_path / "v.toml").write_text("= 1")
    with pytest.raises(ConfigError, match="is not TOML"):
        read_config(tmp_path / "v.toml")


def test_an_instance_without_a_table_has_defaults():
    config = parse_config({"instance": [{"name": "decode-0", "gpus": [2, 3]}]})
    assert config.instance_named("decode-0").gpus == (2, 3)
    assert config.instance_named("decode-1").gpus == ()
    with pytest.raises(ConfigError, match="name"):
        config.instance_named("no/slash")
