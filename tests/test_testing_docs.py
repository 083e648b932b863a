"""docs/testing.md: its examples run, its tables hold every check with its contract."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import pytest

from voltana.testing import check_controller, strategies
from voltana.testing.actuator import ACTUATOR_CHECKS
from voltana.testing.controller import CONTROLLER_CHECKS
from voltana.testing.guarantee import GUARANTEE_CHECKS
from voltana.testing.latencies import LATENCY_KINDS
from voltana.testing.level_set import LEVEL_SET_CHECKS
from voltana.testing.power import POWER_CHECKS, STRICT_POWER_CHECKS
from voltana.testing.predictor import PREDICTOR_CHECKS, STRICT_PREDICTOR_CHECKS
from voltana.testing.router import ROUTER_CHECKS
from voltana.values import Decision

PAGE = (Path(__file__).parents[1] / "docs" / "testing.md").read_text(encoding="utf-8")
SUITES = {
    "check_predictor": PREDICTOR_CHECKS + STRICT_PREDICTOR_CHECKS,
    "check_power_predictor": POWER_CHECKS + STRICT_POWER_CHECKS,
    "check_controller": CONTROLLER_CHECKS,
    "check_guarantee": GUARANTEE_CHECKS,
    "check_router": ROUTER_CHECKS,
    "check_actuator": ACTUATOR_CHECKS,
    "check_level_set": LEVEL_SET_CHECKS,
}


def test_the_examples_run_in_their_order(capsys):
    names: dict[str, object] = {}
    blocks = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    assert len(blocks) >= 4
    for block in blocks:
        exec(compile(block, "docs/testing.md", "exec"), names)
    assert "ok   decides_when_idle" in capsys.readouterr().out
    tests = [value for name, value in names.items() if name.startswith("test_")]
    assert len(tests) == 2
    for test in tests:
        test()


@pytest.mark.parametrize("suite", SUITES)
def test_the_page_lists_every_check_with_its_contract(suite):
    section = PAGE.partition(f"`{suite}`\n\n")[2].partition("\n### ")[0]
    assert section.startswith(f"{len(SUITES[suite])} checks.")
    rows = re.findall(r"^\| `(\w+)` \| (.*) \|$", section, re.MULTILINE)
    assert rows == [
        (check.__name__, " ".join(inspect.getdoc(check).split())) for check in SUITES[suite]
    ]


def test_the_failure_on_the_page_is_what_the_suite_says():
    class Restless:
        def decide(self, observation):
            load = observation.load
            reason = f"batch of {load.decode_requests + load.prefill_tokens}"
            return Decision(clock_mhz=1410.0, reason=reason)

    with pytest.raises(AssertionError) as caught:
        check_controller(Restless).raise_if_failed()
    shown = PAGE.partition("```text\n")[2].partition("```")[0]
    assert shown.strip() == str(caught.value)


def test_the_page_lists_every_strategy():
    public = {
        name
        for name, value in inspect.getmembers(strategies, inspect.isfunction)
        if value.__module__ == strategies.__name__ and not name.startswith("_")
    }
    listed = set(re.findall(r"`(\w+)\(", PAGE.partition("| strategy |")[2].partition("## ")[0]))
    assert listed >= public - {"composite"}
    for kind in LATENCY_KINDS:
        assert kind in PAGE
