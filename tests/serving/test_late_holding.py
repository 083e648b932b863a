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
    """Requests of which one is decoded, until the gate is opened, and all others wait."""
    decode, tasks = pd.servers["decode-0"], []
    decode.gate.close()
    for number in range(count):
        tasks.append(asyncio.create_task(pd.ask(request_id=f"r{number}")))
        await until(lambda n=number: decode.gate.waiting and len(line(pd)) == n)
    return tasks


def test_requests_wait_for_their_decode_and_go_in_their_order() -> None:
    async def check() -> None:
        async with late_cluster(prefill=1, decode=1, **GATED) as pd:
            report(pd.service)
            tasks = await burst(pd, 4)
            status, body = await pd.ask_admin("GET", "/router/status")
            assert status == 200
            assert body["holding"]["decode"]["held"] == 3
            assert body["holding"]["decode"]["reasons"] == {"full": 1, "behind others that wait": 2}
            metrics = (await pd.ask_admin("GET", "/metrics"))[1]
            assert 'voltana_router_held_requests{before="decode"} 3.0' in metrics
            assert 'voltana_router_deferred_total{before="decode",reason="full"} 1.0' in metrics
            pd.servers["decode-0"].gate.open()
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
            tasks = await burst(pd, 4)
            tasks[1].cancel()
            await until(lambda: len(line(pd)) == 2)
            pd.servers["decode-0"].gate.open()
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
            report(pd.service, ttft_s=2.0)
            decode, counts = pd.servers["decode-0"], line(pd).counts
            decode.gate.close()
            tasks = [asyncio.create_task(pd.ask(request_id=f"r{number}")) for number in range(3)]
            await until(lambda: decode.gate.waiting == 3)
            assert counts.overdue == counts.held == 2
            assert 0 < counts.longest_s < 4.0  # within 5 s the router would be asked again
            decode.gate.open()
            for answer in await asyncio.gather(*tasks):
                assert right(answer, stream=False)
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
            tasks = await burst(pd, 3)
            await pd.service.drain()
            answers = await asyncio.gather(*tasks)
            assert [status for status, *_ in answers] == [503] * 3
            assert all(body["error"]["code"] == "shutting_down" for _, body, _ in answers)
            assert len(line(pd)) == 0
            await tidy(pd)

    run(check)
