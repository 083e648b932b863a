"""The generator of mutants: what it changes, that every change is one, and how a run goes on."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

from tools.mutants import __main__ as run
from tools.mutants.changes import changes

ROOT = Path(__file__).parents[1]

SOURCE = '''
"""A text with 1 + 1 in it."""
import math

MOST: int = 3


class Counter:
    """Counts < 2."""

    def __init__(self, first=1.5):
        self.count = 0
        self.seen = not first

    def add(self, n):
        """Add."""
        if n <= MOST and self.seen:
            self.count += n * 2
        return max(self.count, -n) if n else n - 1

    def fail(self):
        raise ValueError(f"{1 + 1}")

    def __repr__(self):
        return str(1 + 1)
'''


def found():
    return {(change.kind, change.before, change.after) for change in changes(SOURCE)}


@pytest.mark.parametrize(
    "expected",
    [
        ("constant moved", "3", "4"),
        ("update dropped", "self.count = 0", "(dropped)"),
        ("update dropped", "self.count += n * 2", "(dropped)"),
        ("operator dropped", "not first", "first"),
        ("comparison turned", "n <= MOST", "n < MOST"),
        ("comparison turned", "n <= MOST", "n > MOST"),
        ("operator swapped", "n <= MOST and self.seen", "n <= MOST or self.seen"),
        ("operator swapped", "n * 2", "n / 2"),
        ("operator swapped", "n - 1", "n + 1"),
        ("function swapped", "max(self.count, -n)", "min(self.count, -n)"),
        ("operator dropped", "-n", "n"),
    ],
)
def test_every_kind_of_change_is_made(expected):
    assert expected in found()


def test_texts_refusals_and_what_is_shown_stay():
    assert not any(before == "1 + 1" for _, before, _ in found())


def test_each_change_is_one_and_leaves_the_others():
    original = ast.unparse(ast.parse(SOURCE))
    made = [ast.unparse(change.tree()) for change in changes(SOURCE)]
    assert len(set(made)) == len(made) > 15
    for text in made:
        differing = [
            pair for pair in zip(text.splitlines(), original.splitlines(), strict=False)
            if pair[0] != pair[1]
        ]  # fmt: skip
        assert differing
        compile(text, "mutant", "exec")


def test_every_file_has_tests_that_exist():
    for file, tests in run.TESTS.items():
        assert (ROOT / file).exists()
        assert all((ROOT / test).exists() for test in tests)
    assert len({mutant["key"] for mutant in run.mutants(run.TESTS)}) > 500


def test_a_run_goes_on_where_it_was_and_prints_what_lives(monkeypatch, tmp_path, capsys):
    asked = []

    def tried(mutant):
        asked.append(mutant["key"])
        return mutant | {"caught": "" if len(asked) == 1 else "FAILED x", "seconds": 1.0}

    monkeypatch.setattr(run, "tried", tried)
    monkeypatch.setattr(run, "RESULTS", tmp_path / "out" / "m.jsonl")
    monkeypatch.setattr(sys, "argv", ["mutants", "--sample", "5", "--jobs", "1"])
    (tmp_path / "out").mkdir()
    assert run.main() == 1  # one of five is more than a tenth
    assert len(asked) == 5
    assert "1 of 5 live:\n  LIVES" in capsys.readouterr().out
    monkeypatch.setattr(sys, "argv", ["mutants", "--sample", "12", "--jobs", "1"])
    assert run.main() == 0
    assert len(asked) == 12
    assert len(run.RESULTS.read_text().splitlines()) == 12


def test_the_hook_loads_one_module_changed():
    file = "voltana/slo_reserve.py"
    source = (ROOT / file).read_text(encoding="utf-8")
    number = next(n for n, c in enumerate(changes(source)) if c.before == "self.requests += 1")
    named = {"module": "voltana.slo_reserve", "path": str(ROOT / file), "number": number}
    program = (
        "import tools.mutants.hook\n"
        "from voltana.slo_reserve import SloReserve\n"
        "made = SloReserve()\nmade.update(missed=True)\nprint(made.requests, made.missed)"
    )
    said = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, check=True, capture_output=True, text=True,
        env={"VOLTANA_MUTANT": json.dumps(named), "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert said.stdout.split() == ["0", "1"]
