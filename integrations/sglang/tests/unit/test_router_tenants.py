"""Who requests are counted for, from the client's header or field to the metrics."""

from __future__ import annotations

import asyncio
import re
from typing import Any

import pytest
from router_cluster import Cluster, cluster

from voltana.errors import ConfigError
from voltana.serving.config import parse_config
from voltana_sglang.config import SglangConfig


def counted(text: str) -> dict[str, float]:
    pattern = r'^voltana_router_tenant_requests_total\{tenant="(.*)"\} (\S+)$'
    return {name: float(value) for name, value in re.findall(pattern, text, re.MULTILINE)}


async def metrics(made: Cluster) -> str:
    async with made.client.get(f"http://127.0.0.1:{made.service.figures.port}/metrics") as answer:
        assert answer.status == 200
        return await answer.text()


@pytest.mark.parametrize("way", ["header", "key"])
def test_requests_are_counted_for_who_they_name_and_energy_goes_to_them(way: str) -> None:
    setting: dict[str, Any] = {
        "header": {"tenant_header": "X-Tenant"},
        "key": {"tenant_key": "user"},
    }
    spend = {"prefill-0": "prefill", "decode-0": "decode"}

    async def check() -> None:
        async with cluster(prefill=1, decode=1, metrics_port=0, **setting[way]) as pd:
            energy = pd.service.forwarder._energy
            for name, role in spend.items():
                energy.told(name, role, 0.0)
            for tenant in ("a", "a", "b", None):
                body = {"text": "a prompt", "stream": tenant == "b"}
                named = {} if tenant is None else {"user": tenant}
                headers = {"X-Tenant": tenant} if tenant and way == "header" else {}
                async with pd.client.post(
                    f"{pd.url}/generate", json=body | named, headers=headers
                ) as answer:
                    assert answer.status == 200
                    await answer.read()
            for name, role in spend.items():
                energy.told(name, role, 40.0)
            text = await metrics(pd)
            assert counted(text) == {"a": 2.0, "b": 1.0, "unnamed": 1.0}
            parts = {
                role: re.findall(
                    rf'energy_joules_total\{{role="{role}",tenant="(\w+)"\}} (\S+)', text
                )
                for role in spend.values()
            }
            for found in parts.values():
                assert {name for name, _ in found} == {"a", "b", "unnamed"}
                assert sum(float(joules) for _, joules in found) == pytest.approx(40.0)
            assert dict(parts["prefill"])["a"] == "20.0"  # by tokens: two of four prompts
            await pd.quiet()

    asyncio.run(check())


def test_no_number_of_names_makes_more_than_a_hundred_and_two_labels() -> None:
    async def check() -> None:
        async with cluster(
            unified=1, metrics_port=0, tenant_key="user", tenants=("paying",)
        ) as one:

            async def send(name: Any) -> None:
                await one.post("/generate", {"text": "p", "user": name})

            names = [f"t{i}" for i in range(130)] + ["x" * 65, 7, {"a": []}, "a\u0000b", "paying"]
            for name in names:
                await send(name)
            found = counted(await metrics(one))
            assert len(found) == 101
            assert found["paying"] == 1.0
            assert sum(found.values()) == len(names)
            assert found["other"] == len(names) - 100

    asyncio.run(check())


@pytest.mark.parametrize(
    ("router", "said"),
    [
        ({"tenant_header": "Authorization"}, "holds no secret"),
        ({"tenant_header": "x-api-key"}, "holds no secret"),
        ({"tenant_header": "bad header"}, "tenant_header"),
        ({"tenant_header": "X-Tenant", "tenant_key": "user"}, "Keep one"),
        ({"tenants": ["paying"]}, r"tenants.*\['paying'\].*tenant_header = \"X-Tenant\""),
        ({"tenants": [str(i) for i in range(101)]}, "tenants"),
        ({"tenants": ["x" * 65]}, "tenants"),
        ({"metrics_port": 70000}, "metrics_port"),
    ],
    ids=str,
)
def test_settings_that_would_tell_secrets_or_too_much_are_refused(
    router: dict[str, Any], said: str
) -> None:
    with pytest.raises(ConfigError, match=said):
        parse_config({"router": router}, SglangConfig)


def test_the_proxy_that_steers_takes_no_setting_that_it_would_not_heed() -> None:
    with pytest.raises(ConfigError, match="the official router"):
        parse_config({"steer": {"metrics_port": 9842}}, SglangConfig)
