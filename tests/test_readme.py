"""What the documentation shows works as shown."""

from __future__ import annotations

import dataclasses
import json
import re
import runpy
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from voltana.config import DEFAULT_POLICIES, parse_scenario
from voltana.evaluation.comparison_report import HEADERS
from voltana.evaluation.metrics import Result

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
SIMULATE = (ROOT / "docs" / "simulate.md").read_text(encoding="utf-8")
PAGES = ("README.md", "CONTRIBUTING.md", "docs/simulate.md", "docs/architecture.md")


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", text, flags=re.DOTALL)


def voltana(*args: str, cwd: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "voltana", *args],
        cwd=cwd, capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_policy_of_the_readme_runs_and_is_15_lines(tmp_path) -> None:
    (code,) = blocks(README, "python")
    assert len([line for line in code.splitlines() if line.strip()]) <= 15
    (tmp_path / "mine.py").write_text(code)
    out = voltana(
        "simulate", "--policy", "static-max", "--policy", "mine:Creep", "--duration", "3",
        "--json", "-", cwd=tmp_path,
    )  # fmt: skip
    fastest, own = json.loads(out)["results"]
    assert own["policy"] == "mine:Creep"
    assert own["clock_changes"] > 10
    assert own["energy_j"] < fastest["energy_j"]


def test_the_demo_table_is_the_one_that_the_demo_prints() -> None:
    table = README.partition("<!-- demo:begin -->")[2].partition("<!-- demo:end -->")[0]
    first = table.strip().partition("\n\n")[0]
    lines = [line.strip("| ").split(" | ") for line in first.splitlines()]
    header, _, *rows = lines
    assert tuple(header) == HEADERS
    assert tuple(row[0] for row in rows) == DEFAULT_POLICIES
    assert all(len(row) == len(HEADERS) for row in rows)


@pytest.mark.parametrize("page", PAGES)
def test_links_to_files_lead_somewhere(page) -> None:
    path = ROOT / page
    links = re.findall(r"\]\(([^)]+)\)", path.read_text(encoding="utf-8"))
    local = [link.partition("#")[0] for link in links if "://" not in link]
    assert local
    assert [link for link in local if not (path.parent / link).exists()] == []


def test_the_example_passes_the_check_suite(capsys) -> None:
    runpy.run_path(str(ROOT / "examples" / "custom_policy.py"), run_name="__main__")
    lines = capsys.readouterr().out.splitlines()
    assert sum(line.startswith("ok ") for line in lines) > 10


def test_the_scenario_files_of_the_docs_are_valid() -> None:
    written = blocks(SIMULATE, "toml")
    assert len(written) == 2
    for text in written:
        assert parse_scenario(tomllib.loads(text)).policies


def test_the_python_of_the_docs_runs(capsys) -> None:
    (code,) = blocks(SIMULATE, "python")
    exec(compile(code, "simulate.md", "exec"), {})
    assert -1 < float(capsys.readouterr().out) < 1


def test_every_figure_of_the_json_is_explained() -> None:
    for field in dataclasses.fields(Result):
        assert f"`{field.name}`" in SIMULATE


def test_every_flag_of_the_docs_exists(tmp_path) -> None:
    known = set(re.findall(r"--[a-z-]+", voltana("simulate", "--help", cwd=tmp_path)))
    shown = set()
    for text in (README, SIMULATE):
        for line in text.splitlines():
            if "voltana simulate" in line or line.rstrip().endswith("`") or "# --" in line:
                shown |= set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", line))
    assert len(shown) > 15
    assert shown - known == set()
