"""Whoever asks the administration without a token as often as he can makes nobody else wait."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from tests.attack.beside import stands_beside
from tests.attack.test_admin_router import HOST, answered, raw, request, run
from tests.serving.late_engine import late_cluster
from voltana.serving.admin.pace import AT_ONCE, PER_S

HEAD = "GET {} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
EXPECTING = HEAD.replace("\r\n\r\n", "\r\nExpect: 200-maybe\r\n\r\n")
"""aiohttp answers what it expects ahead of whoever guards the administration."""


@pytest.mark.parametrize(
    ("head", "path"),
    [(HEAD, "/metrics"), (HEAD, "/health"), (HEAD, "/router/status"), (EXPECTING, "/metrics"),
     (EXPECTING, "/nothing")],
)  # fmt: skip
def test_a_flood_of_those_who_have_no_token_delays_neither_clients_nor_who_has_it(
    head: str, path: str
) -> None:
    asked = head.format(path).encode()

    async def check() -> None:
        async with late_cluster(prefill=1, decode=2, health_timeout_s=5.0) as pd:
            port = pd.service.administration.port

            async def flood() -> None:
                async def one(number: int) -> None:
                    await asyncio.sleep(0.01 * number)  # accepting them all at once is no flood
                    reader, writer = await asyncio.open_connection("127.0.0.1", port)
                    with contextlib.closing(writer), contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(1.0):
                            more = b"it begins"
                            while more:
                                writer.write(asked * 4)
                                more = await reader.read(1 << 20)

                await asyncio.gather(*map(one, range(32)))

            async def honest() -> bool:
                status, _ = await pd.ask_admin("GET", "/router/status")
                return status == 200 and await answered(pd)

            await stands_beside(honest, flood)

            async def scraped() -> bytes:
                return await raw(port, request("GET", "/metrics", HOST), wait_s=30.0)

            flooding = asyncio.create_task(flood())
            assert (await scraped()).startswith(b"HTTP/1.1 200"), "an honest scrape is lost"
            await flooding

    run(check)


@pytest.mark.parametrize("head", [HEAD, EXPECTING])
def test_who_has_no_token_waits_for_his_turn_whatever_he_expects(head: str) -> None:
    asked = head.format("/router/status").encode() * 4

    async def check() -> None:
        async with late_cluster(prefill=1, decode=1) as pd:
            port, loop = pd.service.administration.port, asyncio.get_running_loop()

            async def one() -> int:
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                ends_s, said = loop.time() + 1.0, b""
                with contextlib.closing(writer), contextlib.suppress(TimeoutError):
                    async with asyncio.timeout_at(ends_s):
                        while loop.time() < ends_s:
                            writer.write(asked)
                            said += await reader.read(1 << 20)
                return said.count(b"HTTP/1.1 ")

            answers = sum(await asyncio.gather(*(one() for _ in range(8))))
            assert 0 < answers <= AT_ONCE + 2 * PER_S

    run(check)
