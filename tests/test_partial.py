"""What a long simulation leaves when it is killed."""

from __future__ import annotations

import csv
import os
import signal
import subprocess
import sys

import pytest

from tests.report_steps import simulate
from tests.sweep_steps import ROOT, wait_until
from voltana.errors import ConfigError
from voltana.evaluation.compare import compare
from voltana.evaluation.partial import COLUMNS, PARTIAL, PartialResults
from voltana.evaluation.report.build import run_page
from voltana.evaluation.scenario import load_scenario


def scenario(**more):
    load = {"rate_rps": 40.0, "duration_s": 12.0, "max_output_tokens": 40, **more}
    return load_scenario(None, {"policies": ["static-max", "static-low"], "workload": load})


def told(path):
    return list(csv.DictReader(path.read_text().splitlines()))


def test_stretches_add_up_to_the_run(tmp_path):
    asked = scenario()
    partial = PartialResults(tmp_path / PARTIAL, asked)
    runs = compare(asked, look=partial.look).runs
    partial.close()
    rows = told(tmp_path / PARTIAL)
    for run in runs:
        own = [row for row in rows if row["policy"] == run.result.policy]
        assert [float(row["from_s"]) for row in own[1:]] == [
            float(row["until_s"]) for row in own[:-1]
        ]
        end_s = float(own[-1]["until_s"])
        arrived = run.record.arrival_s < end_s
        counts = [int(row["requests"]) for row in own]
        assert sum(counts) == arrived.sum() > 0.7 * len(arrived)
        kept = sum(n * float(row["ttft_kept"] or 0) for n, row in zip(counts, own, strict=True))
        ttft_kept = (run.record.ttft_s[arrived] <= asked.cluster.slo.ttft_s).sum()
        assert kept == pytest.approx(ttft_kept, abs=0.01 * len(own))
        used_j = sum(float(row["energy_j"]) for row in own)
        assert used_j == pytest.approx(run.record.power_w[: int(end_s)].sum(), rel=1e-4)


def test_after_a_kill_what_was_done_is_readable(tmp_path):
    asked = ("--policy", "static-low", "--rate", "4", "--duration", "20000", "--arrival", "diurnal")
    process = subprocess.Popen(
        [sys.executable, "-m", "voltana", "simulate", *asked, "--out", str(tmp_path)],
        stderr=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    path = tmp_path / PARTIAL
    wait_until(lambda: path.exists() and len(path.read_text().splitlines()) > 2)
    process.send_signal(signal.SIGKILL)
    process.wait()
    rows = told(path)
    assert len(rows) >= 2
    for row in rows:
        assert tuple(row) == COLUMNS
        assert row["policy"] == "static-low"
        assert int(row["requests"]) > 0
        assert float(row["energy_j"]) > 0
        assert 0 <= float(row["ttft_kept"]) <= 1


def test_requests_that_no_instance_can_hold_do_not_stop_it(tmp_path):
    asked = scenario()
    huge = 10 * asked.cluster.kv_capacity_tokens
    asked.trace.prompt_tokens[::7] = huge
    partial = PartialResults(tmp_path / PARTIAL, asked)
    compare(asked, look=partial.look)
    partial.close()
    assert len(told(tmp_path / PARTIAL)) > 10


def test_a_place_that_cannot_be_written_is_one_line(tmp_path):
    with pytest.raises(ConfigError, match="cannot be written: Is a directory"):
        PartialResults(tmp_path, scenario())


def test_two_runs_at_once_do_not_write_into_one_folder(tmp_path):
    first = PartialResults(tmp_path / PARTIAL, scenario())
    with pytest.raises(
        ConfigError, match=r"^folder .* is in use by another run\. Wait for it, or take another\.$"
    ):
        PartialResults(tmp_path / PARTIAL, scenario())
    assert (tmp_path / PARTIAL).read_text().count("\n") == 1
    first.close()
    PartialResults(tmp_path / PARTIAL, scenario()).close()
    assert (tmp_path / PARTIAL).read_text().count("\n") == 1


def test_what_a_killed_run_left_half_written_is_removed(tmp_path):
    torn, other = tmp_path / ".results.json.4711", tmp_path / ".notes.txt"
    for path in (torn, other):
        path.write_text("half of")
    simulate(tmp_path)
    assert (torn.exists(), other.exists()) == (False, True)


def test_no_room_for_pictures_costs_no_figures(tmp_path, monkeypatch):
    def no_room(comparison, folder):
        raise ConfigError("no room")

    monkeypatch.setattr("voltana.evaluation.plots.write_plots", no_room)
    with pytest.raises(ConfigError, match="no room"):
        simulate(tmp_path)
    assert run_page(tmp_path).tiles
