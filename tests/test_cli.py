"""The command line: what users type, what scripts read, and what mistakes look like."""

from __future__ import annotations

import inspect
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli_steps import QUICK, in_process
from voltana import __version__
from voltana.cli import simulate
from voltana.config import DisturbanceTable, parse_scenario
from voltana.errors import ConfigError
from voltana.evaluation import scenario as scenarios
from voltana.evaluation.sweep.fields import field_name

POLICY = '''
from voltana.values import Decision


class Steady:
    """Always the same clock."""

    def decide(self, observation):
        return Decision(clock_mhz=1200, reason="steady")
'''


def test_help_loads_nothing_heavy() -> None:
    heavy = ("numpy", "scipy", "river", "control", "matplotlib", "pydantic", "pandas", "structlog")
    script = (
        "import sys; sys.argv = ['voltana', '--help']\n"
        "from voltana.cli.main import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        f"print([name for name in {heavy!r} if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60
    )
    assert "simulate" in done.stdout
    assert done.stdout.splitlines()[-1] == "[]"


def test_version(voltana) -> None:
    assert voltana("--version") == (0, f"voltana {__version__}\n", "")


def test_help_of_simulate_teaches_by_example(voltana) -> None:
    code, out, _ = voltana("simulate", "--help")
    assert code == 0
    flags = (
        "--trace --trace-format --workload --rate --duration --hardware --model --prefill "
        "--decode --slo-ttft-ms --slo-itl-ms --policy --seed --out --json"
    )
    for flag in flags.split():
        assert flag in out
    assert "voltana simulate --policy static-max --policy mine:make" in out


def test_help_states_the_real_defaults(voltana) -> None:
    out = " ".join(voltana("simulate", "--help")[1].split()).replace("- ", "-")
    file = parse_scenario({})
    assert file.workload is not None
    for default in (
        file.cluster.hardware, file.cluster.model, file.cluster.prefill, file.workload.name,
        file.workload.arrival, f"{file.workload.rate_rps:g}", f"{file.workload.duration_s:g}",
        f"{file.slo.ttft_ms:g}", f"{file.slo.itl_ms:g}", ", ".join(file.policies), file.seed,
    ):  # fmt: skip
        assert re.search(rf"\({re.escape(str(default))}\)", out), default


def test_policies_have_one_line_each(voltana) -> None:
    code, out, _ = voltana("policies")
    names = [line.split()[0] for line in out.splitlines()]
    assert code == 0
    assert {"static-max", "static-low", "window", "voltana-v0.1", "voltana"} <= set(names)
    assert all(len(line.split()) > 2 for line in out.splitlines())


def test_json_on_standard_output_stands_alone() -> None:
    done = in_process(*QUICK, "--policy", "static-max", "--policy", "static-low", "--json", "-")
    assert (done.returncode, done.stderr) == (0, "")
    plain = json.loads(done.stdout)
    assert [result["policy"] for result in plain["results"]] == ["static-max", "static-low"]
    assert plain["scenario"]["workload"]["rate_rps"] == 10


def test_out_holds_plots_results_and_a_scenario_that_runs_again(voltana, tmp_path) -> None:
    out = tmp_path / "new" / "out"
    code, table, said = voltana(*QUICK, "--policy", "static-max,static-low", "--out", out)
    assert code == 0
    assert "static-low" in table
    assert str(out) in said
    assert {path.name for path in out.iterdir()} == {
        "comparison.png",
        "timeline-static-max.png",
        "timeline-static-low.png",
        "report.md",
        "results.json",
        "scenario.toml",
        "series.json",
        "partial.csv",
    }
    code, again, _ = voltana("simulate", out / "scenario.toml", "--json", "-")
    assert code == 0
    first = json.loads((out / "results.json").read_text())
    second = json.loads(again)
    assert second["scenario"] == first["scenario"]
    assert [r["energy_j"] for r in second["results"]] == [r["energy_j"] for r in first["results"]]


def test_a_flag_wins_over_the_scenario_file(voltana, tmp_path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(
        'policies = ["static-max"]\n[workload]\nduration_s = 2\nrate_rps = 5\n'
        "[cluster]\nprefill = 1\n"
    )
    code, out, _ = voltana("simulate", path, "--rate", "8", "--json", "-")
    assert code == 0
    scenario = json.loads(out)["scenario"]
    assert scenario["workload"]["rate_rps"] == 8
    assert scenario["workload"]["duration_s"] == 2
    assert scenario["cluster"]["prefill"] == 1


def test_a_policy_of_the_users_own_runs_beside_a_named_one(tmp_path) -> None:
    (tmp_path / "mine.py").write_text(POLICY)
    done = in_process(
        *QUICK, "--policy", "static-max", "--policy", "mine:Steady", "--json", "-", cwd=tmp_path
    )
    assert (done.returncode, done.stderr) == (0, "")
    named, own = json.loads(done.stdout)["results"]
    assert own["policy"] == "mine:Steady"
    assert own["decode_clock_mhz"] == pytest.approx(1200, abs=20)
    assert own["energy_j"] < named["energy_j"]


def test_a_recorded_trace_is_replayed(voltana, tmp_path) -> None:
    path = tmp_path / "conv.csv"
    path.write_text(
        "TIMESTAMP,ContextTokens,GeneratedTokens\n"
        "2023-11-16 18:15:46.6805900,374,44\n2023-11-16 18:15:47.9951690,396,109\n"
    )
    code, out, _ = voltana(
        "simulate", "--trace", path, "--trace-format", "azure", "--policy", "static-max",
        "--json", "-",
    )  # fmt: skip
    assert code == 0
    (result,) = json.loads(out)["results"]
    assert (result["requests_offered"], result["requests_completed"]) == (2, 2)
    assert json.loads(out)["scenario"]["trace"]["format"] == "azure"


def test_second_timestamps_in_a_format_of_milliseconds_are_told_and_said(voltana, tmp_path) -> None:
    rows = [{"timestamp": i / 8, "input_length": 30, "output_length": 5} for i in range(40)]
    trace = tmp_path / "seconds.jsonl"
    trace.write_text("\n".join(map(json.dumps, rows)))
    code, out, err = voltana(*QUICK[:1], "--trace", trace, "--policy", "static-max", "--json", "-")
    assert code == 0, err
    assert json.loads(out)["results"][0]["simulated_s"] > 4.8
    assert "took the times for seconds" in err
    asked = (*QUICK[:1], "--trace", trace, "--time-unit", "ms", "--policy", "static-max")
    code, out, err = voltana(*asked, "--json", "-")
    assert code == 0, err
    assert json.loads(out)["results"][0]["simulated_s"] < 1
    assert json.loads(out)["scenario"]["trace"]["time_unit"] == "ms"


def test_requests_that_no_instance_can_hold_are_said_in_the_report(voltana, tmp_path) -> None:
    trace, out_dir = tmp_path / "t.csv", tmp_path / "out"
    trace.write_text("arrival_s,prompt_tokens,output_tokens\n0,900000,5\n0.5,30,5\n1,30,5\n")
    asked = (*QUICK[:1], "--trace", trace, "--policy", "static-max")
    code, out, err = voltana(*asked, "--out", out_dir)
    assert code == 0, err
    assert "1 of the requests have a prompt that no instance can hold" in " ".join(out.split())
    assert "no instance can hold" in (out_dir / "report.md").read_text()
    results = json.loads((out_dir / "results.json").read_text())
    assert results["requests_refused"] == 1
    assert results["results"][0]["requests_completed"] == 2


def test_debug_shows_every_decision_with_its_reason_on_standard_error(voltana) -> None:
    code, out, err = voltana(
        *QUICK, "--policy", "static-max", "--log-level", "debug", "--json", "-"
    )
    assert code == 0
    assert json.loads(out)
    decisions = [line for line in err.splitlines() if "decision" in line]
    assert len(decisions) > 10
    assert all(re.search("reason=.*status=", line) for line in decisions)


def test_bound_prints_the_bound_and_what_it_relaxes(voltana, tmp_path) -> None:
    given = ("bound", "--duration", "2", "--rate", "10", "--policy", "static-low")
    code, out, _ = voltana(*given, "--out", tmp_path / "made")
    assert code == 0
    assert "Least energy of any policy that attains 99.00 % TTFT" in out
    assert "| static-low |" in out
    assert {path.name for path in (tmp_path / "made").iterdir()} == {
        "bound.md",
        "bound.json",
        "scenario.toml",
    }
    read = json.loads((tmp_path / "made" / "bound.json").read_text())
    assert read["policies"][0]["policy"] == "static-low"


def test_bound_says_where_it_does_not_apply(voltana) -> None:
    code, out, _ = voltana("bound", "--duration", "3", "--rate", "200", "--policy", "static-max")
    assert code == 0
    assert "does not apply" in out


def test_bound_refuses_a_margin_that_is_no_share(voltana) -> None:
    code, _, err = voltana("bound", "--margin", "2")
    assert code == 2
    assert "margin = 2.0 is not allowed: must be at least 0 and below 1" in err


@pytest.mark.parametrize("command", ["simulate", "bound"])
@pytest.mark.parametrize("form", [(), ("--json", "-")])
def test_files_are_written_even_if_nobody_reads_what_is_printed(tmp_path, command, form) -> None:
    arguments = (command, *QUICK[1:], "--policy", "static-max", "--out", str(tmp_path / "o"))
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [sys.executable, "-m", "voltana", *arguments, *form],
        stdout=writing, stderr=subprocess.PIPE, text=True, check=False, timeout=120,
    )  # fmt: skip
    os.close(writing)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr
    assert (tmp_path / "o" / "scenario.toml").exists()
    assert len(list((tmp_path / "o").iterdir())) >= 3


def test_a_command_without_anything_to_do_prints_its_help(voltana) -> None:
    code, out, err = voltana()
    assert (code, err) == (2, "")
    assert "Usage: voltana" in out
    assert "simulate" in out


def test_the_documented_disturbance_is_understood(voltana, tmp_path) -> None:
    docs = (Path(__file__).parents[1] / "docs" / "simulate.md").read_text()
    table = docs.split("\n[[disturbance]]")[1].split("```")[0]
    (tmp_path / "s.toml").write_text(f"[[disturbance]]{table}")
    code, out, err = voltana(
        *QUICK[:1], tmp_path / "s.toml", *QUICK[1:], "--policy", "static-max", "--json", "-"
    )
    assert code == 0, err
    (disturbance,) = json.loads(out)["scenario"]["disturbance"]
    assert set(disturbance) == set(DisturbanceTable.model_fields)


def test_every_flag_of_simulate_reaches_the_field_of_its_name(voltana, monkeypatch):
    of_the_run = {
        "scenario", "uncertainty", "price", "currency", "carbon", "out", "json", "log_level",
    }  # fmt: skip
    given, asked = {}, []
    for name in inspect.signature(simulate.simulate).parameters:
        if name not in of_the_run:
            given[field_name(name)] = str(len(given) + 1)
            asked += ["--" + name.replace("_", "-"), given[field_name(name)]]
    seen = {}

    def note(_file, tables):
        seen.update(tables)
        raise ConfigError("noted")

    monkeypatch.setattr(scenarios, "load_scenario", note)
    assert voltana("simulate", *asked)[0] == 2
    said = {}
    for name, value in seen.items():
        fields = {f"{name}.{key}": v for key, v in value.items()} if type(value) is dict else {}
        said |= fields or {name: value}
    (said["policies"],) = said["policies"]
    as_text = {name: f"{v:g}" if type(v) is float else str(v) for name, v in said.items()}
    assert as_text == given
