"""What `make fidelity` says of targets that are missed, and of its own list of known misses."""

from __future__ import annotations

import math

import pytest

from benchmarks.fidelity import Row, verdicts

KNOWN = {("clocks", "saving"): "the panels contradict each other"}


def row(measured: float, *, what: str = "saving") -> Row:
    return Row(section="clocks", what=what, measured=measured, low=-2, high=2, rows=1)


@pytest.mark.parametrize("measured", [3.0, math.nan])
def test_a_known_miss_is_a_remark(measured: float) -> None:
    remarks, complaints = verdicts([row(measured)], KNOWN)
    assert complaints == []
    assert "the panels contradict each other" in remarks[0]


def test_an_unknown_miss_is_a_complaint() -> None:
    remarks, complaints = verdicts([row(1.0, what="another"), row(3.0)], {})
    assert remarks == []
    assert complaints == ["missed: clocks: saving: 3 %, target -2-2 %"]


def test_a_known_miss_that_is_met_again_is_a_complaint() -> None:
    assert "met again" in verdicts([row(1.0)], KNOWN)[1][0]


def test_an_entry_that_names_no_row_is_a_complaint() -> None:
    complaints = verdicts([row(1.0, what="another")], KNOWN)[1]
    assert "names no row: section 'clocks', what 'saving'" in complaints[0]
