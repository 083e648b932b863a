"""Whoever asks the administration without a token as often as he can makes nobody else wait."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from tests.attack.beside import stands_beside
from tests.attack.test_admin_router import HOST, answered, raw, request, run
from tests.serving.late_engine import late_cluster


@pytest.mark.parametrize("path", ["/metrics", "/health", "/router/status"])
def test_a_flood_of_those_who_have_no_token_delays_neither_clients_nor_who_has_it(
    path: str,
) -> None:
    asked = f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode()

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
