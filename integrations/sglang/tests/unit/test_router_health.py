"""Servers that are dead, not ready, or hang: what the router makes of its looks at them."""

from __future__ import annotations

import asyncio

import pytest
from router_answers import ask, completed, has_error, run
from router_cluster import cluster, until

from voltana.serving.router import loads


def test_a_dead_server_is_ejected_at_once_and_comes_back() -> None:
    async def check() -> None:
        async with cluster(prefill=1, decode=2, health_period_s=60) as pd:
            dead = pd.servers["decode-0"]
            await dead.stop()
            assert completed(await ask(pd), stream=False)
            assert not pd.service.pool.named("decode-0").healthy
            assert (await pd.get("/health"))[0] == 200
            await dead.start()
            await until(lambda: pd.service.pool.named("decode-0").healthy)

    run(check)


def test_without_any_server_of_a_role_the_answer_says_so() -> None:
    async def check() -> None:
        async with cluster(prefill=1, decode=1) as pd:
            await pd.servers["decode-0"].stop()
            first = await ask(pd)
            assert first[0] in {502, 503}
            assert has_error(first[1])
            status, body, headers = await ask(pd)
            assert (status, body["error"]["code"]) == (503, "no_backend")
            assert "decode-0" in body["error"]["message"]
            assert headers["Retry-After"] == "1"
            assert (await pd.get("/health"))[0] == 503

    run(check)


def test_a_server_that_is_not_ready_yet_gets_nothing() -> None:
    async def check() -> None:
        async with cluster(prefill=1, decode=1, wait=False, health_period_s=0.05) as pd:
            for server in pd.servers.values():
                server.healthy = False
            pd.service.pool.named("decode-0").healthy = False
            assert (await pd.get("/health"))[0] == 503
            for server in pd.servers.values():
                server.healthy = True
            async with asyncio.timeout(20):
                while (await pd.get("/health"))[0] != 200:
                    await asyncio.sleep(0.02)

    run(check)


@pytest.mark.parametrize("who", ["prefill-0", "decode-0"])
def test_a_server_that_hangs_is_found_by_its_health_checks(who: str) -> None:
    async def check() -> None:
        async with cluster(
            prefill=2, decode=2, health_period_s=0.05, health_timeout_s=0.4, eject_after=3
        ) as pd:
            pd.servers[who].always = "hang"
            pd.servers[who].hanging_health = True
            answers = await asyncio.gather(*(ask(pd, stream=s) for s in (False, True) * 2))
            assert [a[0] for a in answers] == [200] * 4
            assert not pd.service.pool.named(who).healthy
            await pd.quiet()

    run(check)


def test_a_server_that_was_down_for_days_is_still_checked() -> None:
    """Its back-off doubles, but a day has more checks than a float has powers of two."""

    async def check() -> None:
        async with cluster(prefill=1, decode=2, health_period_s=0.05) as pd:
            dead = pd.service.pool.named("decode-0")
            await pd.servers["decode-0"].stop()
            await until(lambda: not dead.healthy)
            dead.ejections = 5000
            assert dead.back_off_s == 0.2
            await pd.servers["decode-0"].start()
            await until(lambda: dead.healthy)

    run(check)


def test_unknown_answers_of_the_page_of_loads_end_no_polling(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # However many come while a busy machine does not look.
    monkeypatch.setattr(loads, "SILENT_AFTER_FAILURES", 1_000_000)

    async def check() -> None:
        async with cluster(prefill=1, decode=1, loads_period_s=0.01) as pd:
            decode, reports = pd.servers["decode-0"], pd.service.reports
            for odd in ([], {"loads": None}, {"loads": [None]}, "text", None):
                asked, decode.odd_loads = decode.loads_asked, [odd]
                await until(lambda asked=asked: decode.loads_asked > asked + 2)  # type: ignore[misc]
            decode.odd_loads = []
            decode.loads = {"num_running_reqs": 3, "num_waiting_reqs": 0, "num_used_tokens": 9}
            await until(lambda: reports.fresh("decode-0", pd.service._time.now_s()))

    run(check)
