"""Requests that wait before both legs, as SGLang sends them at once."""

from __future__ import annotations

import asyncio
from typing import Any

from router_cluster import Cluster, cluster

from tests.serving.gates import GATED, report
from tests.serving.router_client import until
from tests.serving.test_late_engine import run

PATH = "/v1/completions"


def queue(pd: Cluster) -> Any:
    return pd.service.holding._lines["prefill"]


async def burst(pd: Cluster, count: int) -> list[asyncio.Task[Any]]:
    """Requests of which one is served, until the gate is opened, and all others wait."""
    decode, tasks = pd.servers["decode-0"], []
    decode.gate.close()
    for number in range(count):
        body = {"model": "m", "prompt": f"p{number}", "rid": f"r{number}"}
        tasks.append(asyncio.create_task(pd.post(PATH, body)))
        await until(lambda n=number: decode.gate.waiting and len(queue(pd)) == n)
    return tasks


def test_requests_wait_before_their_prefill_and_go_in_their_order() -> None:
    async def check() -> None:
        async with cluster(prefill=1, decode=1, **GATED) as pd:
            report(pd.service)
            tasks = await burst(pd, 4)
            assert len(pd.servers["prefill-0"].seen) == 1  # nothing of those that wait is sent
            assert pd.service.ledger.in_flight("decode-0") == 1
            status = (await pd.ask_admin("GET", "/router/status"))[1]["holding"]["prefill"]
            assert (status["held"], status["held_in_all"]) == (3, 3)
            pd.servers["decode-0"].gate.open()
            assert [answer[0] for answer in await asyncio.gather(*tasks)] == [200] * 4
            prompts = [body["prompt"] for body in pd.servers["prefill-0"].seen]
            assert prompts == ["p0", "p1", "p2", "p3"]
            assert queue(pd).counts.overdue == 0
            await pd.quiet()
            assert pd.complaints == []

    run(check)


def test_one_that_is_chosen_while_its_client_leaves_keeps_no_place() -> None:
    async def check() -> None:
        async with cluster(prefill=1, decode=1, **GATED) as pd:
            report(pd.service)
            tasks = await burst(pd, 3)
            first, *_ = queue(pd)._line
            send = first.send

            def leaving(choice: Any) -> None:
                send(choice)
                tasks[1].cancel()  # between being chosen and being sent

            first.send = leaving
            pd.servers["decode-0"].gate.open()
            answers = await asyncio.gather(*tasks, return_exceptions=True)
            assert answers[0][0] == answers[2][0] == 200
            await pd.quiet()
            assert pd.complaints == []

    run(check)


def test_a_retry_does_not_wait_again() -> None:
    async def check() -> None:
        async with cluster(prefill=2, decode=1, **GATED) as pd:
            report(pd.service)
            pd.servers["decode-0"].faults.append("reset-mid")  # while the others wait
            tasks = await burst(pd, 3)
            pd.servers["decode-0"].gate.open()
            assert [answer[0] for answer in await asyncio.gather(*tasks)] == [200] * 3
            assert len(pd.servers["decode-0"].seen) == 4
            assert queue(pd).counts.held == 2
            await pd.quiet()

    run(check)
