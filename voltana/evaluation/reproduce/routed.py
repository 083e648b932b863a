"""The policies of `boundaries`: two controls, each with decode routers that know less or more."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from voltana.errors import unknown_name
from voltana.policies import get_policy, routing

if TYPE_CHECKING:
    from voltana.policy import Policy

IN_TURN = {"v0.1, in turn": "voltana-v0.1", "voltana, in turn": "voltana"}
AS_NAMED = {
    "static-max": "static-max",
    "v0.1, around tiles": "voltana-v0.1",
    "voltana, least power": "voltana",
}
AROUND = "voltana, around boundaries"
NAMES = ("static-max", "v0.1, in turn", "v0.1, around tiles", "voltana, in turn", AROUND,
         "voltana, least power")  # fmt: skip


def routed(name: str) -> Policy:
    """The policy of one of `NAMES`."""
    if name in AS_NAMED:
        return get_policy(AS_NAMED[name])
    if name in IN_TURN:
        return dataclasses.replace(get_policy(IN_TURN[name]), decode_router=routing.in_turn)
    if name == AROUND:
        return dataclasses.replace(get_policy("voltana"), decode_router=routing.around_boundaries)
    raise unknown_name("routed policy", name, list(NAMES))
