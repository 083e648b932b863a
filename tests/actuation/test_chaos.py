"""A short run of the chaos suite; `make chaos` runs 200 rounds."""

from __future__ import annotations

import pytest

from tests.actuation.chaos import Chaos


def run(tmp_path, library, rounds, lease_s, seed):
    chaos = Chaos(tmp_path, library, lease_s, seed)
    chaos.run(rounds)
    assert chaos.problems == []
    assert [one for one in chaos.rounds if one.late] == []
    assert len(chaos.rounds) == rounds


def test_ten_rounds(tmp_path, library):
    run(tmp_path, library, rounds=10, lease_s=1.0, seed=1)


@pytest.mark.slow
def test_two_hundred_rounds(tmp_path, library):
    run(tmp_path, library, rounds=200, lease_s=2.0, seed=2)
