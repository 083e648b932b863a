"""Real servers keep the protocol that virtual ones are held to, case by case."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from protocol_cases import CASES, Pair, keys_open_what_they_should

from servers import ServerSpec

if TYPE_CHECKING:
    from collections.abc import Callable

    from servers import Fleet, Server

KEY, ADMIN = "sk-of-the-clients", "sk-of-the-admin"


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__)
def test_a_real_pair_answers_so(pair: tuple[Server, Server], case: Callable[[Pair], Any]) -> None:
    prefill, decode = pair
    assert prefill.bootstrap_port is not None
    door = "127.0.0.1", prefill.bootstrap_port
    case(Pair(prefill=prefill.url, decode=decode.url, bootstrap=door))


def test_a_real_servers_keys_open_what_they_should(fleet: Fleet) -> None:
    keys = ("--api-key", KEY, "--admin-api-key", ADMIN)
    server = fleet.get(ServerSpec(name="guarded", arguments=keys))[0]
    keys_open_what_they_should(server.url, KEY, ADMIN)
