"""Hands the label of an iteration to who issued its decision, whatever the policy is by now."""

from __future__ import annotations

from typing import TYPE_CHECKING

from voltana.serving.agent.open_decisions import Open, guarantee_of, lose
from voltana.values import Outcome

if TYPE_CHECKING:
    from collections.abc import Callable

    from voltana.loop import ControlLoop
    from voltana.values import Load

FAILED = "learning failed"
"""A user's code raised before the label was scored."""


def hand_over(
    loop: ControlLoop,
    ended: Open,
    *,
    load: Load,
    latency_s: float,
    clock_mhz: float,
    ended_at_s: float,
    complain: Callable[[Exception], None],
) -> None:
    """Score a label once, where its decision was issued, and teach the loop's models by it.

    Args:
        loop: The loop as it is now.
        ended: The decision, and who issued it; a policy may have come in between.
        load: What was computed.
        latency_s: What it took.
        clock_mhz: Mean clock achieved.
        ended_at_s: When it ended.
        complain: Called with what a user's code raises, which must not end the agent.
    """
    decision, issuer = ended
    moved = issuer is not None and guarantee_of(issuer) is not guarantee_of(loop.predictor)
    failed = False
    try:
        loop.learn(
            None if moved else decision,
            load=load, latency_s=latency_s, clock_mhz=clock_mhz, ended_at_s=ended_at_s,
        )  # fmt: skip
    except Exception as error:  # noqa: BLE001  (a user's code)
        failed = True
        complain(error)
    if moved and issuer is not None:  # its promise stands
        try:
            issuer.learn(
                Outcome(
                    load=load, clock_mhz=clock_mhz, latency_s=latency_s, ended_at_s=ended_at_s,
                    decision=decision,
                )
            )  # fmt: skip
        except Exception as error:  # noqa: BLE001  (likewise)
            failed = True
            complain(error)
    if failed:
        lose(ended, FAILED)  # counted where it was not scored before
