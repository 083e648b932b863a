"""Mistakes on the command line: one line with its remedy, and exit code 2."""

from __future__ import annotations

import re

import pytest

from tests.cli_steps import QUICK, in_process


@pytest.mark.parametrize(
    ("args", "text"),
    [
        (("--policy", "voltina"), "'voltina'. Did you mean 'voltana'"),
        (("--policy", "nowhere:make"), "nowhere:make.* cannot be imported"),
        (("--policy", "json:nothing"), "has no 'nothing'"),
        (("--policy", "json:loads"), r"raised TypeError in loads\(\).*A factory takes"),
        (("--prefill", "1000000000"), "prefill = 1000000000.*at most 1024"),
        (("--decode", "1000000000"), "decode = 1000000000.*at most 1024"),
        (("--workload", "sharegtp"), "'sharegtp'. Did you mean 'sharegpt'"),
        (("--hardware", "a101"), "'a101'.* Choose one of"),
        (("--model", "llama"), "'llama'.* Choose one of"),
        (("--model", "nowhere.json"), "nowhere.json cannot be read.*config.json"),
        (("--trace", "nowhere.csv"), "nowhere.csv"),
        (("--trace", "nowhere.csv", "--trace-format", "azur"), "'azur'"),
        (("--trace-format", "azure"), "trace.file .* given.*--trace"),
        (("--workload", "lmsys", "--trace", "x.csv"), "both 'workload' and 'trace'"),
        (("--slo-ttft-ms", "0"), "slo.ttft_ms = 0.* above 0.*--slo-ttft-ms"),
        (("--slo-itl-ms", "-5"), "slo.itl_ms = -5.* above 0.*--slo-itl-ms"),
        (("--slo-itl-ms", "nan"), "slo.itl_ms = nan"),
        (("--slo-itl-ms", "0.001"), "one request alone takes.* Raise --slo-itl-ms"),
        (("--prefill", "0"), "cluster.prefill = 0 .* at least 1.*--prefill"),
        (("--decode", "0"), "cluster.decode = 0 .* at least 1.*--decode"),
        (("--tp", "0"), "cluster.tensor_parallel = 0 .* at least 1"),
        (("--model", "llama-3.1-70b", "--tp", "1"), "tensor_parallel = 1 .* Use more devices"),
        (("--rate", "0"), "rate_rps = 0.* above 0.*--rate"),
        (("--rate", "-1"), "rate_rps = -1"),
        (("--duration", "0"), "duration_s = 0.*--duration"),
        (("--seed", "-1"), "seed = -1"),
        (("--cv", "2"), "cv = 2.*--arrival gamma"),
        (("--prefill", "two"), "--prefill.*integer.*voltana simulate --help"),
        (("--polices", "x"), "--polices.*voltana simulate --help"),
        (("nowhere.toml",), "nowhere.toml.* cannot be read"),
        (("--json", "/dev/null/x/y.json"), "cannot be made"),
        (("--json", "/"), "cannot be written: .*directory"),
        (("--price", "-"), "price = '-' cannot be read"),
        (("--log-level", "loud"), "'loud'.*one of debug"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_line_with_its_remedy_and_exit_code_2(
    voltana, tmp_path, monkeypatch, args, text
) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, err = voltana("simulate", *args)
    assert (code, out) == (2, "")
    assert re.search(text, err), err
    assert err.startswith("voltana: ")
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("[cluster]\nprefil = 1\n", "'prefil'. Did you mean 'prefill'"),
        ("[clusters]\n", "'clusters'"),
        ("policies = [\n", "is not TOML"),
    ],
)
def test_a_bad_scenario_file_is_one_line(voltana, tmp_path, content, text) -> None:
    path = tmp_path / "scenario.toml"
    path.write_text(content)
    code, out, err = voltana("simulate", path)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert text in err


@pytest.mark.parametrize(
    "content", [b"", b"TIMESTAMP,ContextTokens\n1,2\n", b"\x00\x01\x02", b"\x1f\x8bnot gzip"]
)
def test_an_unreadable_trace_is_one_line(voltana, tmp_path, content) -> None:
    path = tmp_path / "trace.csv.gz"
    path.write_bytes(content)
    code, out, err = voltana("simulate", "--trace", path, "--trace-format", "azure")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "trace.csv.gz" in err


def test_a_mistake_in_a_real_process_has_no_traceback() -> None:
    done = in_process("simulate", "--policy", "voltina")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1
    assert "Traceback" not in done.stderr


def test_an_interrupt_ends_with_130_and_no_traceback(voltana, monkeypatch) -> None:
    def interrupt(*_args, **_options):
        raise KeyboardInterrupt

    monkeypatch.setattr("voltana.evaluation.compare.compare", interrupt)
    monkeypatch.setattr("voltana.cli.running.signal.signal", lambda *_: None)  # this process's own
    code, out, err = voltana(*QUICK)
    assert (code, out) == (130, "")
    assert err.strip() == "voltana: interrupted"


BROKEN = '''
class Control:
    """Fails while it decides."""

    def decide(self, observation):
        return {}["clock"]


class Route:
    """Fails while it routes."""

    def route(self, request, candidates):
        return 1 / 0


def factory():
    """Fails at once."""
    raise RuntimeError("no such table")
'''


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("Control", r"raised KeyError in decide\(\) \(broken_policy\.py:6\): 'clock'"),
        ("Route", r"raised ZeroDivisionError in route\(\) \(broken_policy\.py:13\)"),
        ("factory", r"raised RuntimeError in factory\(\) \(broken_policy\.py:18\): no such table"),
    ],
)
def test_a_users_policy_that_raises_is_blamed_in_one_line(tmp_path, name, text) -> None:
    (tmp_path / "broken_policy.py").write_text(BROKEN, encoding="utf-8")
    done = in_process(*QUICK, "--policy", f"broken_policy:{name}", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1
    assert re.search(text, done.stderr), done.stderr


def test_a_budget_that_is_too_small_names_the_least_of_the_whole_cluster(voltana) -> None:
    asked = ("simulate", "--duration", "3", "--rate", "5", "--policy", "static-max")
    code, _, err = voltana(*asked, "--power-budget", "100")
    assert code == 2
    least = re.search(r"must be at least (\d+) W: the 2 prefill and 2 decode instances", err)
    assert least is not None, err
    assert voltana(*asked, "--power-budget", least[1])[0] == 0
    assert voltana(*asked, "--power-budget", int(least[1]) - 1)[0] == 2


@pytest.mark.parametrize(
    ("flag", "value"), [("--rate", "x"), ("--prefill", "1.5"), ("--seed", ""), ("--cv", "1,5")]
)
def test_what_is_no_number_is_said_with_flag_and_value(voltana, flag, value) -> None:
    code, out, err = voltana("simulate", flag, value)
    assert (code, out) == (2, "")
    assert flag in err
    assert repr(value) in err
    assert "Run 'voltana simulate --help'." in err


NOWHERE = "a" * 300
"""Longer than a name can be: even to ask what lies there fails, as in a folder of somebody else."""


@pytest.mark.parametrize(
    "line",
    [
        ("simulate", "--json", NOWHERE),
        ("simulate", "--out", NOWHERE),
        ("simulate", "--hardware", f"{NOWHERE}.toml"),
        ("simulate", NOWHERE),
        ("simulate", "--trace", NOWHERE),
        ("sweep", "--grid", "seed=1", "--json", NOWHERE),
        ("sweep", "--list", f"{NOWHERE}.csv"),
        ("reproduce", "main-result", "--published", NOWHERE),
        ("reproduce", "main-result", "--clocks", NOWHERE),
        ("report", NOWHERE),
        ("report", f"{NOWHERE}/results.parquet"),
        ("bound", "--json", NOWHERE),
        ("plan", "--out", NOWHERE),
    ],
    ids=lambda line: " ".join(line).replace(NOWHERE, "nowhere"),
)
def test_a_path_that_leads_nowhere_is_one_line_that_names_it(
    voltana, tmp_path, monkeypatch, line
) -> None:
    monkeypatch.chdir(tmp_path)
    code, _, err = voltana(*line)
    assert code == 2
    assert len(err.splitlines()) == 1
    assert NOWHERE in err
    assert "File name too long" in err
