"""The scrape port tells figures and nothing else, whoever asks for what."""

from __future__ import annotations

import asyncio
import contextlib
import socket

import aiohttp
import pytest

from voltana.errors import ConfigError
from voltana.serving.admin.figures import FiguresListener


@contextlib.asynccontextmanager
async def listening(host="127.0.0.1", **options):
    made = []

    def figures():
        made.append(1)
        return b"voltana_x 1\n", "text/plain"

    listener = FiguresListener(figures, options.pop("healthy", lambda: True), **options)
    await listener.start(host, 0)
    try:
        async with aiohttp.ClientSession() as client:
            yield client, f"http://127.0.0.1:{listener.port}", made
    finally:
        await listener.stop()
        await listener.stop()


async def ask(client, url, method="GET", **headers):
    async with client.request(method, url, headers=headers) as answer:
        return answer.status, await answer.read()


def test_figures_and_health_are_all_that_there_is():
    async def check():
        async with listening() as (client, url, made):
            assert await ask(client, f"{url}/metrics") == (200, b"voltana_x 1\n")
            assert (await ask(client, f"{url}/health"))[0] == 200
            for path in ("/status", "/slo", "/policy", "/router/drain", "/", "/metrics/x"):
                assert (await ask(client, url + path))[0] == 404, path
            for method in ("PUT", "POST", "DELETE", "PATCH"):
                assert (await ask(client, f"{url}/metrics", method))[0] == 405, method
            for _ in range(50):
                await ask(client, f"{url}/metrics")
            assert len(made) <= 10  # however often it is asked

    asyncio.run(check())


def test_pages_of_others_are_refused_and_names_are_those_that_were_given():
    async def check():
        async with listening(names=["Prom-Target"]) as (client, url, _):
            assert (await ask(client, f"{url}/metrics", Origin="http://evil.example"))[0] == 403
            assert (await ask(client, f"{url}/metrics", Host="evil.example"))[0] == 403
            assert (await ask(client, f"{url}/metrics", Host="10.0.0.5:80"))[0] == 403
            for host in ("localhost:1", "prom-target:9842", socket.gethostname()):
                assert (await ask(client, f"{url}/metrics", Host=host))[0] == 200, host
        async with listening("0.0.0.0") as (client, url, _):
            assert (await ask(client, f"{url}/metrics", Host="10.0.0.5:80"))[0] == 200
            assert (await ask(client, f"{url}/metrics", Host="evil.example"))[0] == 403

    asyncio.run(check())


def test_ill_health_is_503_and_a_taken_port_names_its_keys():
    async def check():
        async with listening(healthy=lambda: False) as (client, url, _):
            assert (await ask(client, f"{url}/health"))[0] == 503
            taken = int(url.rpartition(":")[2])
            with pytest.raises(ConfigError, match="metrics_host, metrics_port"):
                await FiguresListener(lambda: (b"", ""), lambda: True).start("127.0.0.1", taken)

    asyncio.run(check())
