"""`voltana check`: what passes, what fails, and what either looks like."""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path

import pytest

from voltana.cli import main as cli

EXAMPLES = Path(__file__).parents[1] / "examples"
MINE = """
from voltana.actuators.recording import RecordingActuator
from voltana.levels import Explicit, Published
from voltana.predictors.ecopred import EcoPred
from voltana.predictors.linear_power import LinearPower
from voltana.timebase import MonotonicTime
from voltana.values import Decision

class Bad:
    def decide(self, observation):
        return Decision(clock_mhz=-1.0, reason="")

class First:
    def route(self, request, candidates):
        return candidates[0].instance

class Nothing:
    pass

def plain():
    return EcoPred()

LEVELS = Explicit((1005.0, 1410.0))

def actuator(context):
    return RecordingActuator(context.table_mhz, time=MonotonicTime())

class OneLevelTooMany:
    def levels(self, table_mhz):
        return (*table_mhz, 5000.0)

class Raises:
    def __init__(self):
        raise RuntimeError("two\\nlines")

class Leaves:
    def __init__(self):
        raise SystemExit(0)
"""


@pytest.fixture
def check(monkeypatch, capsys, tmp_path):
    (tmp_path / "checked_mine.py").write_text(MINE, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))

    def run(*args):
        monkeypatch.setattr(sys, "argv", ["voltana", "check", *args])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        out, err = capsys.readouterr()
        return ended.value.code or 0, out, err

    return run


def test_a_broken_controller_fails_with_what_was_seen(check):
    code, out, err = check("checked_mine:Bad")
    assert (code, err) == (1, "")
    assert "FAIL gives_a_reason" in out
    assert "remedy:" in out
    assert "checks failed" in out.splitlines()[-1]


def test_json_says_the_same(check):
    code, out, _ = check("checked_mine:Bad", "--json")
    found = json.loads(out)
    assert code == 1
    assert found["passed"] is False
    assert {suite["suite"] for suite in found["suites"]} == {
        "contract of a controller",
        "SLO guarantee",
    }


def test_a_plain_predictor_is_attacked_inside_the_wrapper(check):
    code, out, _ = check("checked_mine:plain", "--programs", "5")
    assert code == 0
    assert "SLO guarantee, inside Conformal:" in out
    assert "ok   the_bound_holds" in out


def test_a_router_goes_through_its_own_suite(check):
    _, out, _ = check("checked_mine:First")
    assert "contract of a router:" in out


@pytest.mark.parametrize(
    ("name", "suite", "a_check"),
    [
        ("actuator", "actuator", "the_latest_command_wins"),
        ("LinearPower", "power predictor", "learn_survives_broken_windows"),
        ("Published", "level set", "levels_ascend"),
        ("LEVELS", "level set", "fits_its_device"),
    ],
)
def test_the_other_kinds_go_through_their_suites(check, name, suite, a_check):
    code, out, err = check(f"checked_mine:{name}")
    assert (code, err) == (0, "")
    assert out.startswith(f"contract of a{'n' if suite[0] == 'a' else ''} {suite}:")
    assert f"ok   {a_check}" in out


def test_a_broken_level_set_fails_with_what_was_seen(check):
    code, out, _ = check("checked_mine:OneLevelTooMany")
    assert code == 1
    assert "[5000.0] of a table of 210-1410 MHz" in out


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("checked_mine:Nothing",), "none of decide()"),
        (("checked_mine:absent",), "has no 'absent'"),
        (("checked_mine:Bad", "--role", "both"), "prefill or decode"),
    ],
)
def test_what_cannot_be_checked_is_a_usage_error(check, args, said):
    code, _, err = check(*args)
    assert code == 2
    assert said in err


def test_the_example_passes_its_own_check(check, monkeypatch):
    monkeypatch.syspath_prepend(str(EXAMPLES))
    code, out, _ = check("guaranteed_policy:make", "--programs", "5")
    assert code == 0, out
    assert "not applicable" not in out.partition("SLO guarantee:")[2]
    names = runpy.run_path(str(EXAMPLES / "guaranteed_policy.py"))
    names["test_the_guarantee"]()


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("Raises", "raised RuntimeError in __init__() (checked_mine.py:"),
        ("Leaves", "raised SystemExit in __init__() (checked_mine.py:"),
    ],
)
def test_a_constructor_that_raises_is_blamed_in_one_line(check, name, text):
    code, out, err = check(f"checked_mine:{name}")
    assert (code, out) == (2, "")
    assert text in err
    assert len(err.splitlines()) == 1


def test_what_a_module_defines_is_listed_without_what_it_imports(check):
    code, _, err = check("checked_mine:Absent")
    assert code == 2
    names = "Bad, First, Nothing, plain, LEVELS, actuator, OneLevelTooMany, Raises, Leaves"
    assert f"It defines: {names}." in err


def test_the_examples_of_the_help_stand_on_lines_of_their_own(check):
    code, out, _ = check("--help")
    lines = [line.strip() for line in out.splitlines()]
    assert code == 0
    assert "voltana check mine:LEVELS" in lines
    assert "\\b" not in out
