"""What tests wait for: an answer at one instant says nothing of a busy machine."""

from __future__ import annotations

from tests.clusters.calls import first_that


def test_the_first_answer_that_holds_is_given_and_the_last_where_none_did():
    answers = iter(["degraded", "degraded", "ok", "lost"])
    assert first_that(lambda said: said == "ok", lambda: next(answers)) == "ok"
    assert first_that(lambda said: said == "ok", lambda: next(answers), 0.0) == "lost"
