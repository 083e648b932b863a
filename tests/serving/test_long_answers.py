"""Answers of any length: what a server may send, and what that costs everybody else."""

from __future__ import annotations

import asyncio
import time

import pytest

from voltana.serving.router.bulk import AT_ONCE, RATE, Bulk
from voltana.serving.router.problem import Lost
from voltana.serving.router.wire import Wire

MB = 1 << 20


def test_what_is_short_or_comes_bit_by_bit_never_waits() -> None:
    line = Bulk(lambda: 0.0)
    assert line.wait_s(10 * MB, 0) > 0.0
    assert line.wait_s(AT_ONCE, 0) == 0.0
    assert all(line.wait_s(300, before) == 0.0 for before in range(0, 10 * MB, 300))


def test_long_answers_wait_for_each_other() -> None:
    now_s = 5.0
    line = Bulk(lambda: now_s)
    waits = [line.wait_s(MB, MB) for _ in range(8)]
    assert waits == pytest.approx([(n + 1) * MB / RATE for n in range(8)])
    now_s = 100.0
    assert line.wait_s(MB, MB) == pytest.approx(MB / RATE)


async def _serve(head: bytes, megabytes: int) -> asyncio.Server:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(head)
        try:
            for _ in range(megabytes):
                writer.write(b"100000\r\n" + b" " * MB + b"\r\n")
                await writer.drain()
            writer.write(b"0\r\n\r\n")
            await writer.drain()
        except ConnectionError:
            pass
        writer.close()

    return await asyncio.start_server(answer, "127.0.0.1", 0)


CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.mark.parametrize("whole", [True, False])
def test_servers_that_send_megabytes_do_not_get_the_loop_to_themselves(*, whole: bool) -> None:
    """Four at once, each 8 MB: no faster than a quarter of a core reads, on any machine."""
    count, megabytes = 4, 8

    async def read(wire: Wire, url: str) -> int:
        async with wire.call("server", "GET", url) as call:
            if whole:
                return len(await call.read())
            taken = 0
            while chunk := await call.chunk():
                taken += len(chunk)
            return taken

    async def main() -> None:
        server = await _serve(CHUNKED, megabytes)
        port = server.sockets[0].getsockname()[1]
        wire = Wire()
        began_s = time.perf_counter()
        taken = await asyncio.gather(
            *(read(wire, f"http://127.0.0.1:{port}/") for _ in range(count))
        )
        took_s = time.perf_counter() - began_s
        await wire.close()
        server.close()
        assert taken == [megabytes * MB] * count
        assert took_s > 0.8 * count * (megabytes * MB - AT_ONCE) / RATE

    asyncio.run(main())


def test_an_answer_that_says_that_it_is_too_long_is_not_read() -> None:
    async def main() -> None:
        server = await _serve(b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n", 0)
        wire = Wire(MB)
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
        with pytest.raises(Lost, match=f"longer than {MB} bytes"):
            async with wire.call("server", "GET", url, timeout_s=30.0) as call:
                await call.read()
        await wire.close()
        server.close()

    asyncio.run(main())
