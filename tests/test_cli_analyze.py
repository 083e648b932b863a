"""`voltana analyze` on the command line."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from voltana.cli.main import main


def voltana(*args, cwd):
    return subprocess.run(
        [sys.executable, "-m", "voltana", "analyze", *args],
        cwd=cwd, capture_output=True, text=True, check=False, timeout=180,
    )  # fmt: skip


@pytest.fixture
def together(tmp_path):
    """A scenario of colocated instances."""
    path = tmp_path / "together.toml"
    path.write_text("[cluster]\ncolocated = 2\nprefill = 0\ndecode = 0\n")
    return str(path)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("analysis")
    done = voltana(
        "--policy", "pid,static-max", "--duration", "40", "--rate", "40", "--gains", "300,600",
        "--out", "out", "--json", "-", cwd=folder,
    )  # fmt: skip
    return folder, done


def test_it_prints_margins_and_writes_plots(run) -> None:
    folder, done = run
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert [policy["policy"] for policy in result["policies"]] == ["pid", "static-max"]
    fixed = result["policies"][1]
    assert (fixed["law"], fixed["verdict"]) == ("no feedback here", "stable")
    assert fixed["role"] == "decode"
    assert fixed["served_share"] == pytest.approx(1.0, abs=0.1)
    assert fixed["margins"]["gain_margin"] is None
    assert 0 < fixed["batch_feedback"] < 1
    assert result["design"]["gains"]["proportional_mhz"] == 300
    assert result["design"]["margins"]["modulus_margin"] > 0.5
    assert (folder / "out" / "step.png").stat().st_size > 10_000
    assert json.loads((folder / "out" / "analysis.json").read_text()) == result
    assert (folder / "out" / "scenario.toml").exists()


def test_a_run_that_does_not_settle_is_no_stable_one(tmp_path) -> None:
    done = voltana("--policy", "static-max", "--duration", "15", "--rate", "300", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "not settled: serves" in done.stdout
    assert "raise --duration, or lower --rate" in " ".join(done.stdout.split())


def test_a_clock_at_its_limit_is_no_feedback_and_not_unstable(tmp_path) -> None:
    done = voltana(
        "--policy", "pid,window", "--duration", "40", "--rate", "60", "--slo-itl-ms", "25",
        "--json", "-", cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    for policy in json.loads(done.stdout)["policies"]:
        assert policy["operating_point"]["clock_mhz"] == pytest.approx(1410, abs=5)
        assert (policy["law"], policy["verdict"]) == ("no feedback here", "stable")
        assert policy["slowest_s"] > 0.1  # of the batch, which answers by itself


def test_unstable_gains_are_refused(tmp_path) -> None:
    done = voltana(
        "--policy", "static-max", "--duration", "20", "--gains", "9000,100", cwd=tmp_path
    )
    assert done.returncode == 2
    assert "static-max" in done.stdout
    assert "is unstable: its largest pole has modulus" in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("args", "text"),
    [
        (["--gains", "high"], "--gains = 'high' is not allowed: must be two or three numbers"),
        (["--modulus-margin", "2"], "modulus_margin = 2.0 is not allowed: must be 0 to 1"),
        (["--gains", "1,2", "--design"], "--gains = '1,2' is not allowed: must be given without"),
        (["--clock", "1200"], "--clock = 1200.0 is not allowed: must be given with --design"),
        (["--clock", "5000", "--design"], "--clock = 5000.0 is not allowed: must be 210-1410 MHz"),
        (["--phase-margin", "200"], "below 90 degrees. 30 is usual"),
        (
            ["--delay-margin-ms", "-1"],
            "delay_margin_ms = -1.0 is not allowed: must be 0 ms or more",
        ),
        (["--policy", "pdi"], "unknown policy 'pdi'. Did you mean 'pid'?"),
    ],
)
def test_errors_name_value_range_and_remedy(args, text, monkeypatch, capsys) -> None:
    monkeypatch.setattr(sys, "argv", ["voltana", "analyze", *args])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    printed = capsys.readouterr()
    assert text in printed.err
    assert printed.out == ""


def test_colocated_instances_are_refused_and_why(together, monkeypatch, capsys) -> None:
    monkeypatch.setattr(sys, "argv", ["voltana", "analyze", together, "--duration", "5"])
    with pytest.raises(SystemExit):
        main()
    said = capsys.readouterr().err
    assert "cluster.colocated = 2 is not allowed: must be 0 here" in said
    assert "prompts come between tokens" in said
