"""A short run of the chaos suite; `make chaos` runs 200 rounds."""

from __future__ import annotations

from tests.actuation.chaos import Chaos


def run(tmp_path, library, rounds, **options):
    chaos = Chaos(tmp_path, library, **options)
    chaos.run(rounds)
    assert chaos.problems == []
    assert [one for one in chaos.rounds if one.late] == []
    assert len(chaos.rounds) == rounds


def test_ten_rounds(tmp_path, library):
    # Beside the rest of the suite, two cores may be late by more than the daemon is.
    run(tmp_path, library, rounds=10, lease_s=1.0, seed=1, slack_s=1.5)
