"""What `make fidelity` says of targets that are missed, and of its own list of known misses."""

from __future__ import annotations

import math
import sys

import pytest

from benchmarks import fidelity
from benchmarks.fidelity import Row, known_misses, verdicts
from benchmarks.fidelity import __main__ as runner

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


DAMAGED = ["[[miss", 'miss = "x"', "miss = [1]", "[miss]\na = 1", '[[miss]]\nsection = "s"', "\xff"]


@pytest.mark.parametrize("text", DAMAGED)
def test_a_damaged_list_of_known_misses_is_said_in_one_line(text, tmp_path, monkeypatch, capsys):
    path = tmp_path / "known.toml"
    path.write_bytes(text.encode("latin-1"))
    monkeypatch.setattr(fidelity, "KNOWN", path)
    assert refusal(monkeypatch, capsys, "quoted").startswith("fidelity: known.toml")


def test_no_known_miss_is_an_empty_list(tmp_path, monkeypatch):
    path = tmp_path / "known.toml"
    path.write_text("# none\n")
    monkeypatch.setattr(fidelity, "KNOWN", path)
    assert known_misses() == {}


@pytest.mark.parametrize("text", ["[x", None, "", "[decode_exponent]\nbatches = [8]"])
def test_damaged_quotations_are_said_in_one_line(text, tmp_path, monkeypatch, capsys):
    path = tmp_path / "quoted.toml"
    if text is not None:
        path.write_text(text)
    monkeypatch.setattr(fidelity, "QUOTED", path)
    assert "quoted" in refusal(monkeypatch, capsys, "quoted")


def test_a_section_that_is_not_there_is_refused(monkeypatch, capsys):
    assert "unknown section 'quotedd'" in refusal(monkeypatch, capsys, "quotedd")


def test_absent_measurements_of_a_section_leave_the_document_alone(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(runner, "DATA", tmp_path)
    document = runner.DOCUMENT.read_bytes()
    assert "section layers" in refusal(monkeypatch, capsys, "layers")
    assert runner.DOCUMENT.read_bytes() == document


def refusal(monkeypatch, capsys, *sections: str) -> str:
    monkeypatch.setattr(sys, "argv", ["fidelity", *sections])
    if not runner.DATA.is_dir():
        monkeypatch.setattr(runner, "DATA", runner.DOCUMENT.parent)
    assert runner.main() == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    return said
