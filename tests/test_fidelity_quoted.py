"""The quoted measurements, and the rows that are held against them."""

from __future__ import annotations

from benchmarks.fidelity import quotations, quoted
from benchmarks.fidelity.published import PANELS, Point, saving_error, savings


def test_every_quotation_says_its_source():
    found = quotations()
    assert {"ministral", "moe_h200", "decode_exponent", "h100_optimum"} <= set(found)
    assert all(len(table["source"]) > 40 for table in found.values())


def test_quoted_targets_are_met():
    missed = [f"{row.what}: {row.measured:.3g}" for row in quoted.run(None) if not row.meets]
    assert not missed


def points(*energies_j: float) -> list[Point]:
    return [Point(10.0 * i, energy, 1.0, 1.0) for i, energy in enumerate(energies_j)]


def test_savings_are_compared_where_both_are_visible():
    nan = float("nan")
    name = next(iter(PANELS))
    published = {(name, "f1410"): points(100, 100, nan), (name, "f1005"): points(70, nan, 60)}
    simulated = {(name, "f1410"): points(100, 100, 100), (name, "f1005"): points(65, 10, 10)}
    assert list(savings(published, name, "f1005")) == [0.0]
    assert abs(saving_error(published, simulated, name, "f1005") - 5) < 1e-9
