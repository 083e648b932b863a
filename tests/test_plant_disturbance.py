"""Disturbances: an instance that becomes slower in mid-run."""

from __future__ import annotations

import numpy as np
import pytest

from voltana.errors import ConfigError
from voltana.evaluation.compare import compare
from voltana.evaluation.scenario import load_scenario, to_toml
from voltana.plant.disturbance import Disturbance


def run(tmp_path, *disturbances, until_s=30.0):
    """Latency and start of the iterations of each instance at the fastest clock, without noise."""
    path = tmp_path / "scenario.toml"
    path.write_text("".join(f"[[disturbance]]\n{text}\n" for text in disturbances))
    flags = {
        "policies": ["static-max"],
        "workload": {"rate_rps": 20.0, "duration_s": until_s},
        "engine": {"latency_noise": 0.0},
    }
    scenario = load_scenario(path, flags)
    record = compare(scenario, record_timelines=True).reference.record
    return scenario, {i.instance: i for i in record.instances}


def typical_s(instance, *, before_s=None, after_s=None):
    timeline = instance.timeline
    part = timeline.start_s < before_s if before_s else timeline.start_s >= after_s
    return float(np.median(timeline.latency_s[part]))


def test_a_factor_slows_the_one_instance_from_its_time_on(tmp_path):
    _, calm = run(tmp_path)
    _, hit = run(tmp_path, 'instance = "prefill-1"\nfrom_s = 15.0\nfactor = 1.4')
    for name in ("prefill-0", "prefill-1"):
        before = typical_s(hit[name], before_s=15.0) / typical_s(calm[name], before_s=15.0)
        assert before == pytest.approx(1.0, rel=0.02)
    slow, other = hit["prefill-1"].timeline, hit["prefill-0"].timeline
    late, late_other = slow.start_s >= 15.0, other.start_s >= 15.0
    per_token = np.median(slow.latency_s[late] / slow.batch[late])
    per_token_other = np.median(other.latency_s[late_other] / other.batch[late_other])
    assert per_token > 1.2 * per_token_other


def test_a_pause_is_added_whatever_the_load_and_ends(tmp_path):
    text = 'instance = "decode-0"\nfrom_s = 10.0\nuntil_s = 20.0\npause_s = 0.05'
    _, hit = run(tmp_path, text)
    timeline = hit["decode-0"].timeline
    inside = (timeline.start_s >= 10.0) & (timeline.start_s < 20.0)
    assert timeline.latency_s[inside].min() > 0.05
    assert np.median(timeline.latency_s[timeline.start_s > 21.0]) < 0.05


def test_a_scenario_keeps_its_disturbances(tmp_path):
    scenario, _ = run(tmp_path, 'instance = "decode-1"\nfactor = 1.1', until_s=1.0)
    again = tmp_path / "again.toml"
    again.write_text(to_toml(scenario.file))
    assert load_scenario(again, {}).cluster.disturbances == (
        Disturbance(instance="decode-1", factor=1.1),
    )


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ('instance = "decode-7"', "decode-7"),
        ('instance = "decode-0"\nfactor = 0.0', "factor"),
        ('instance = "decode-0"\nfrom_s = 9.0\nuntil_s = 3.0', "until_s"),
        ("factor = 2.0", "instance"),
    ],
)
def test_errors_name_the_field(tmp_path, text, named):
    with pytest.raises(ConfigError, match=named):
        run(tmp_path, text)
