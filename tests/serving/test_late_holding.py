"""Requests that wait before their decode, where an engine chooses that after the prefill."""

from __future__ import annotations

import asyncio
import math
from typing import TYPE_CHECKING, Any

from tests.serving.gates import GATED, Broken, report
from tests.serving.late_engine import LateCluster, late_cluster
from tests.serving.router_client import until
from tests.serving.test_late_engine import right, run, tidy
from voltana.values import Request

if TYPE_CHECKING:
    from voltana.cluster.holding import HoldingQueue


def line(pd: LateCluster, before: str = "decode") -> HoldingQueue[Any]:
    return pd.service.holding._lines[before]


async def burst(pd: LateCluster, count: int) -> list[asyncio.Task[Any]]:
    """Requests of which one is decoded and all others wait."""
    tasks = []
    for number in range(count):
        tasks.append(asyncio.create_task(pd.ask(request_id=f"r{number}")))
        await until(lambda n=number: len(line(pd)) == n)
        if not number:
            await until(lambda: pd.service.ledger.in_flight("decode-0"))
    return tasks


def test_requests_wait_for_their_decode_and_go_in_their_order() -> None:
    async def check() -> None:
        async with late_cluster(prefill=1, decode=1, **GATED) as pd:
            report(pd.service)
            pd.servers["decode-0"].work_s = 0.05
            tasks = await burst(pd, 4)
            status, body = await pd.ask_admin("GET", "/router/status")
            assert status == 200
            assert body["holding"]["decode"]["held"] == 3
            assert body["holding"]["decode"]["reasons"] == {"full": 1, "behind others that wait": 2}
            metrics = (await pd.ask_admin("GET", "/metrics"))[1]
            assert 'voltana_router_held_requests{before="decode"} 3.0' in metrics
            assert 'voltana_router_deferred_total{before="decode",reason="full"} 1.0' in metrics
            for answer in await asyncio.gather(*tasks):
                assert right(answer, stream=False)
            ids = [body["request_id"] for body in pd.servers["decode-0"].seen]
            assert ids == [f"r{number}/0" for number in range(4)]
            assert line(pd).counts.overdue == 0
            await tidy(pd)

    run(check)


def test_a_client_that_leaves_takes_its_request_out_of_the_line() -> None:
    async def check() -> None:
        async with late_cluster(prefill=1, decode=1, **GATED) as pd:
            report(pd.service)
            pd.servers["decode-0"].work_s = 0.1
            tasks = await burst(pd, 4)
            tasks[1].cancel()
            await until(lambda: len(line(pd)) == 2)
            answers = await asyncio.gather(*tasks, return_exceptions=True)
            assert [right(a, stream=False) for i, a in enumerate(answers) if i != 1] == [True] * 3
            assert [body["request_id"] for body in pd.servers["decode-0"].seen] == [
                "r0/0",
                "r2/0",
                "r3/0",
            ]
            assert line(pd).counts.cancelled == 1
            await tidy(pd)

    run(check)


def test_a_deadline_ends_the_wait() -> None:
    async def check() -> None:
        async with late_cluster(prefill=1, decode=1, **GATED) as pd:
            report(pd.service, ttft_s=0.6)
            pd.servers["decode-0"].work_s = 0.3
            tasks = await burst(pd, 3)
            for answer in await asyncio.gather(*tasks):
                assert right(answer, stream=False)
            counts = line(pd).counts
            assert counts.overdue == counts.held == 2
            assert 0 < counts.longest_s < 0.85 * 0.6 + 0.3
            await tidy(pd)

    run(check)


def test_nothing_waits_where_no_agent_has_reported() -> None:
    async def check() -> None:
        async with late_cluster(prefill=1, decode=1, **GATED) as pd:
            pd.servers["decode-0"].work_s = 0.02
            answers = await asyncio.gather(*(pd.ask(request_id=f"r{n}") for n in range(5)))
            assert all(right(answer, stream=False) for answer in answers)
            assert line(pd).counts.held == line(pd, "prefill").counts.held == 0
            await tidy(pd)

    run(check)


def test_a_predictor_that_fails_loses_no_request_that_is_deferred() -> None:
    async def check() -> None:
        async with late_cluster(prefill=1, decode=1, **GATED) as pd:
            report(pd.service, predictor=Broken())
            pd.servers["decode-0"].work_s = 0.02
            held = await asyncio.gather(
                *(
                    pd.service.holding.pair(
                        Request(request_id=n, arrived_at_s=0.0, prompt_tokens=9, slack_s=math.inf),
                        lambda _pair: None,
                        1.0,
                    )
                    for n in range(3)
                )
            )
            assert [pair.decode.name for pair in held] == ["decode-0"] * 3
            answers = await asyncio.gather(*(pd.ask(request_id=f"r{n}") for n in range(5)))
            assert all(right(answer, stream=False) for answer in answers)
            await tidy(pd)

    run(check)


def test_a_router_that_does_not_say_that_it_defers_is_shown_no_slack() -> None:
    async def check() -> None:
        silent = {**GATED, "decode_router": "tests.serving.gates:silent"}
        async with late_cluster(prefill=1, decode=1, **silent) as pd:
            report(pd.service)
            answers = await asyncio.gather(*(pd.ask(request_id=f"r{n}") for n in range(5)))
            assert all(right(answer, stream=False) for answer in answers)
            assert line(pd).counts.held == line(pd, "prefill").counts.held == 0

    run(check)


def test_a_shutdown_ends_those_that_wait_with_a_clear_error() -> None:
    async def check() -> None:
        async with late_cluster(prefill=1, decode=1, **GATED, drain_timeout_s=0.2) as pd:
            report(pd.service)
            pd.servers["decode-0"].faults.append("hang")
            tasks = await burst(pd, 3)
            await pd.service.drain()
            answers = await asyncio.gather(*tasks)
            assert [status for status, *_ in answers] == [503] * 3
            assert all(body["error"]["code"] == "shutting_down" for _, body, _ in answers)
            assert len(line(pd)) == 0
            await tidy(pd)

    run(check)
