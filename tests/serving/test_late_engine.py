"""The router in front of an engine whose legs run one after the other, decode chosen late.

It is the same router that serves SGLang, whose legs run at once; see `voltana.serving.engine`.
"""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.serving.late_engine import LateCluster, late_cluster
from tests.serving.late_servers import words_of
from tests.serving.router_client import until
from tests.serving.work_gate import PATIENT

EXPECTED = words_of("a")
STREAMS = pytest.mark.parametrize("stream", [False, True])
LEGS = pytest.mark.parametrize("who", ["prefill-0", "decode-0"])


def run(body: Any) -> None:
    async def limited() -> None:
        async with asyncio.timeout(60):
            await body()

    asyncio.run(limited())


def right(answer: tuple[int, Any, Any], *, stream: bool) -> bool:
    """Whether an answer is whole, with the words of its prompt."""
    status, body, _ = answer
    if not stream:
        return status == 200 and body == {"text": " ".join(EXPECTED)}
    return status == 200 and body == [*({"text": word} for word in EXPECTED), "[DONE]"]


async def tidy(pd: LateCluster) -> None:
    """Nothing is in flight, no cache is kept for nobody, and no server had a reason to complain."""
    await pd.quiet()
    await until(lambda: not pd.kept)
    assert pd.complaints == []


@STREAMS
def test_answers_are_those_of_a_unified_server(stream: bool) -> None:
    async def check() -> None:
        async with late_cluster(prefill=1, decode=1) as pd, late_cluster(unified=1) as one:
            for made in (pd, one):
                assert right(await made.ask(stream=stream, max_tokens=6), stream=stream)
            (first,), (second,) = pd.servers["prefill-0"].seen, pd.servers["decode-0"].seen
            assert (first["max_tokens"], second["max_tokens"]) == (1, 6)
            assert second["kv"] == {"server": "prefill-0", "cache": "r/0"}
            headers = (await pd.ask(stream=stream))[2]
            assert headers["X-Voltana-Prefill"] == "prefill-0"
            assert headers["X-Voltana-Decode"] == "decode-0"
            await tidy(pd)

    run(check)


@STREAMS
def test_the_decode_server_is_chosen_when_the_prefill_is_done(stream: bool) -> None:
    async def check() -> None:
        async with late_cluster(prefill=1, decode=2, **PATIENT) as pd:
            ledger = pd.service.ledger
            prefill, second = pd.servers["prefill-0"], pd.servers["decode-1"]
            prefill.gate.close()
            second.gate.close()
            asked = asyncio.create_task(pd.ask(stream=stream))
            await until(lambda: prefill.gate.waiting)
            assert ledger.in_flight("prefill-0") == 1
            assert ledger.in_flight("decode-0") == ledger.in_flight("decode-1") == 0
            pd.service.pool.named("decode-0").draining = True  # the first in line, until now
            prefill.gate.open()
            await until(lambda: second.gate.waiting)
            assert ledger.in_flight("prefill-0") == 0
            assert ledger.in_flight("decode-1") == 1
            second.gate.open()
            assert right(await asked, stream=stream)
            assert pd.servers["decode-0"].seen == []
            await tidy(pd)

    run(check)


@STREAMS
@LEGS
@pytest.mark.parametrize("fault", ["500", "503", "reset"])
def test_what_fails_before_the_first_byte_is_repeated_on_another_pair(
    fault: str, who: str, stream: bool
) -> None:
    async def check() -> None:
        async with late_cluster(prefill=2, decode=2) as pd:
            pd.servers[who].faults.append(fault)
            assert right(await pd.ask(stream=stream), stream=stream)
            assert [len(s.seen) for n, s in pd.servers.items() if n.startswith(who[:6])] == [1, 1]
            await tidy(pd)  # what the first prefill kept was given up
            metrics = (await pd.ask_admin("GET", "/metrics"))[1]
            assert f'voltana_router_retries_total{{backend="{who}"}} 1.0' in metrics

    run(check)


@STREAMS
@LEGS
def test_a_server_that_is_killed_at_work_costs_a_repetition(who: str, stream: bool) -> None:
    async def check() -> None:
        async with late_cluster(prefill=2, decode=2, **PATIENT) as pd:
            victim = pd.servers[who]
            victim.gate.close()
            asked = asyncio.create_task(pd.ask(stream=stream))
            await until(lambda: victim.gate.waiting)
            await victim.stop()
            assert right(await asked, stream=stream)
            assert len(victim.seen) == 1
            await tidy(pd)

    run(check)


@pytest.mark.parametrize(
    ("who", "stream"), [("prefill-0", False), ("prefill-0", True), ("decode-0", True)]
)
def test_a_server_that_hangs_is_given_up_after_the_first_token_limit(
    who: str, stream: bool
) -> None:
    async def check() -> None:
        async with late_cluster(prefill=2, decode=2, first_token_timeout_s=0.4) as pd:
            pd.servers[who].faults.append("hang")
            answer = await pd.ask(stream=stream)
            assert right(answer, stream=stream)
            await until(lambda: pd.servers[who].aborted)
            await tidy(pd)

    run(check)


@pytest.mark.parametrize("counts", [{"prefill": 1, "decode": 1}, {"unified": 1}])
def test_a_long_whole_answer_is_not_taken_for_a_hanging_server(counts: dict[str, int]) -> None:
    async def check() -> None:
        async with late_cluster(**counts, first_token_timeout_s=1.5) as pd:
            *_, last = pd.servers.values()
            last.work_s = 0.3  # 1.8 s for the answer
            assert right(await pd.ask(), stream=False)
            assert len(last.seen) == 1
            await tidy(pd)

    run(check)


@LEGS
def test_a_server_that_hangs_is_found_by_its_health_checks(who: str) -> None:
    async def check() -> None:
        async with late_cluster(prefill=2, decode=2, health_period_s=0.05) as pd:
            pd.servers[who].faults.append("hang")
            pd.servers[who].hanging_health = True
            assert right(await pd.ask(), stream=False)
            assert not pd.service.pool.named(who).healthy
            await until(lambda: pd.servers[who].aborted)
            await tidy(pd)

    run(check)


def test_a_stream_that_breaks_off_ends_with_an_error_event_and_is_not_repeated() -> None:
    async def check() -> None:
        async with late_cluster(prefill=1, decode=2) as pd:
            pd.servers["decode-0"].faults.append("reset-mid")
            status, events, _ = await pd.ask(stream=True)
            assert status == 200
            assert events[:2] == [{"text": word} for word in EXPECTED[:2]]
            assert events[-2]["error"]["code"] == "backend_broken_off"
            assert events[-1] == "[DONE]"
            assert pd.servers["decode-1"].seen == []
            await tidy(pd)

    run(check)


@STREAMS
@LEGS
def test_a_client_that_goes_away_takes_the_leg_at_work_with_it(who: str, stream: bool) -> None:
    async def check() -> None:
        async with late_cluster(prefill=1, decode=1) as pd:
            at_work, prefill = pd.servers[who], pd.servers["prefill-0"]
            at_work.gate.close()
            asked = asyncio.create_task(pd.ask(stream=stream))
            await until(lambda: at_work.gate.waiting)
            asked.cancel()
            await asyncio.gather(asked, return_exceptions=True)
            await until(lambda: at_work.cancelled and at_work.aborted)
            # The prefill server is told in both cases: it may still keep the cache.
            await until(lambda: prefill.aborted)
            assert at_work.aborted == prefill.aborted == ["r/0"]
            assert bool(pd.servers["decode-0"].seen) == (who == "decode-0")
            await tidy(pd)

    run(check)


@LEGS
def test_a_client_can_abort_its_request_wherever_it_is(who: str) -> None:
    async def check() -> None:
        async with late_cluster(prefill=1, decode=1) as pd:
            pd.servers[who].gate.close()
            asked = asyncio.create_task(pd.ask(request_id="mine"))
            await until(lambda: pd.servers[who].gate.waiting)
            assert await pd.service.forwarder.abort("mine", None)
            assert not await pd.service.forwarder.abort("another", None)
            assert pd.servers["prefill-0"].aborted == ["mine/0"]
            assert pd.servers["decode-0"].aborted == (["mine/0"] if who == "decode-0" else [])
            await asked

    run(check)


@STREAMS
@LEGS
def test_the_deadline_ends_a_request_with_a_clear_error(who: str, stream: bool) -> None:
    async def check() -> None:
        async with late_cluster(prefill=1, decode=1, timeout_s=1.5) as pd:
            begun = stream and who == "decode-0"
            pd.servers[who].gate.close(after=int(begun))
            _, body, _ = await pd.ask(stream=stream)
            error = (body[-2] if begun else body)["error"]
            assert error["code"] == "timeout"
            await until(lambda: pd.servers[who].aborted)
            await tidy(pd)

    run(check)


def test_loads_are_asked_for_in_the_engine_s_own_words() -> None:
    async def check() -> None:
        async with late_cluster(prefill=1, decode=2, loads_period_s=0.02) as pd:
            now_s = pd.service._time.now_s
            await until(lambda: pd.service.reports.fresh("decode-1", now_s()))
            report = pd.service.reports.fresh("decode-1", now_s())
            assert report is not None
            assert (report.source, report.state.clock_mhz) == ("loads", 1000.0)

    run(check)


def test_a_burst_spreads_over_both_legs() -> None:
    async def check() -> None:
        async with late_cluster(prefill=2, decode=2, **PATIENT) as pd:
            servers = pd.servers.values()
            for server in servers:
                server.gate.close()
            asked = [
                asyncio.create_task(pd.ask(stream=i % 2 == 0, request_id=str(i))) for i in range(20)
            ]
            await let_go(pd, "prefill", 20)
            await let_go(pd, "decode", 20)
            answers = await asyncio.gather(*asked)
            assert all(right(answer, stream=i % 2 == 0) for i, answer in enumerate(answers))
            assert [len(server.seen) for server in servers] == [10, 10, 10, 10]
            await tidy(pd)

    run(check)


async def let_go(pd: LateCluster, role: str, count: int) -> None:
    """Open the gates of a leg once so many requests stand there."""
    leg = [server for server in pd.servers.values() if server.role == role]
    await until(lambda: sum(server.gate.waiting for server in leg) == count)
    for server in leg:
        server.gate.open()
