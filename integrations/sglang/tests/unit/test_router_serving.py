"""The router against fake servers: protocol, answers, admin."""

from __future__ import annotations

import asyncio
import re
from typing import Any

import pytest
from router_cluster import cluster, until

from tests.serving.work_gate import PATIENT
from voltana.errors import ConfigError

CALLS: list[tuple[str, dict[str, Any]]] = [
    ("/generate", {"text": "a prompt"}),
    ("/generate", {"input_ids": [1, 2, 3, 4]}),
    ("/generate", {"text": ["one", "two", "three"]}),
    ("/generate", {"input_ids": [[1, 2], [3, 4, 5]]}),
    ("/v1/completions", {"model": "m", "prompt": "a prompt"}),
    ("/v1/completions", {"model": "m", "prompt": ["one", "two"]}),
    ("/v1/completions", {"model": "m", "prompt": [5, 6, 7]}),
    ("/v1/chat/completions", {"model": "m", "messages": [{"role": "user", "content": "hi"}]}),
]


def run(body: Any) -> None:
    async def limited() -> None:
        async with asyncio.timeout(60):
            await body()

    asyncio.run(limited())


def text_of(path: str, answer: Any) -> Any:
    if path == "/generate":
        return [a["text"] for a in answer] if isinstance(answer, list) else answer["text"]
    return [choice["text"] for choice in answer["choices"]]


@pytest.mark.parametrize(("path", "body"), CALLS)
def test_answers_are_those_of_a_unified_server(path: str, body: dict[str, Any]) -> None:
    async def check() -> None:
        async with cluster(prefill=2, decode=2) as pd, cluster(unified=1) as one:
            expected = await one.post(path, body)
            found = await pd.post(path, body)
            assert found[0] == expected[0] == 200
            assert text_of(path, found[1]) == text_of(path, expected[1])
            streamed = await pd.post(path, body | {"stream": True})
            reference = await one.post(path, body | {"stream": True})
            assert streamed[1][-1] == reference[1][-1] == "[DONE]"
            assert [strip(e) for e in streamed[1]] == [strip(e) for e in reference[1]]
            assert found[2]["X-Voltana-Decode"].startswith("decode-")
            assert found[2]["X-Voltana-Prefill"].startswith("prefill-")
            assert pd.complaints == []
            await pd.quiet()

    run(check)


def strip(event: Any) -> Any:
    """Without ids, which differ."""
    if isinstance(event, dict):
        return {k: strip(v) for k, v in event.items() if k != "id"}
    return [strip(e) for e in event] if isinstance(event, list) else event


def test_both_legs_get_the_same_room_and_the_prefill_server_s_address() -> None:
    async def check() -> None:
        async with cluster(prefill=1, decode=1) as pd:
            await pd.post("/generate", {"text": ["a", "b"], "routed_dp_rank": 1, "x": 2})
            (first,), (second,) = pd.servers["prefill-0"].seen, pd.servers["decode-0"].seen
            assert first == second
            assert len(set(first["bootstrap_room"])) == 2
            assert first["bootstrap_host"] == ["127.0.0.1"] * 2
            assert first["bootstrap_port"] == [pd.servers["prefill-0"].bootstrap_port] * 2
            assert first["routed_dp_rank"] == 1
            assert first["x"] == 2

    run(check)


def test_a_client_s_bootstrap_fields_and_id_are_replaced_and_its_answer_has_its_id() -> None:
    async def check() -> None:
        async with cluster(prefill=1, decode=1) as pd:
            body = {"text": "a", "bootstrap_room": 5, "rid": "mine", "disagg_prefill_dp_rank": 3}
            status, answer, _ = await pd.post("/generate", body)
            seen = pd.servers["decode-0"].seen[0]
            assert status == 200
            assert seen["bootstrap_room"] != 5
            assert seen["disagg_prefill_dp_rank"] == 3
            assert answer["meta_info"]["id"] == "mine"
            assert re.fullmatch("[0-9a-f]{32}", seen["rid"])
            batch = {"text": ["a", "b"], "rid": ['x"', "y"], "stream": True}
            _, events, _ = await pd.post("/generate", batch)
            ids = {event["meta_info"]["id"] for event in events[:-1]}
            assert ids <= {'x"', "y"} or len(ids) == 1, ids
            assert not any(pd.servers["decode-0"].seen[1]["rid"] in i for i in ids)

    run(check)


def test_headers_reach_both_servers_and_hop_by_hop_ones_do_not() -> None:
    async def check() -> None:
        async with cluster(prefill=1, decode=1) as pd:
            headers = {"Authorization": "Bearer k", "X-Data-Parallel-Rank": "2", "Te": "trailers"}
            await pd.post("/generate", {"text": "a"}, headers=headers)
            for server in pd.servers.values():
                assert server.headers[0]["Authorization"] == "Bearer k"
                assert server.headers[0]["X-Data-Parallel-Rank"] == "2"
                assert "Te" not in server.headers[0]

    run(check)


def test_a_client_s_key_is_passed_on_and_the_router_s_own_never_lent() -> None:
    async def check() -> None:
        async with cluster(prefill=1, decode=1, api_key="secret", loads_period_s=0.01) as pd:
            decode = pd.servers["decode-0"]
            for server in pd.servers.values():
                server.api_key = "secret"
                server.loads = {"num_running_reqs": 0, "num_waiting_reqs": 0, "num_used_tokens": 0}
            key = {"Authorization": "Bearer secret"}
            decode.token_s = 0.02
            assert (await pd.post("/generate", {"text": "a"}, headers=key))[0] == 200
            assert (await pd.ask_admin("POST", "/flush_cache", {}))[0] == 200
            assert decode.unauthorised == []  # the router polls loads with its own key
            status, answer, _ = await pd.post("/generate", {"text": "a"})
            assert (status, answer) == (401, {"error": "Unauthorized"})
            assert (await pd.post("/flush_cache", {}, headers=key))[0] == 404
            assert set(decode.unauthorised) <= {"/generate"}

    run(check)


@pytest.mark.parametrize("stream", [False, True])
def test_log_probabilities_of_the_prompt_come_from_the_prefill_server(stream: bool) -> None:
    async def check() -> None:
        async with cluster(prefill=1, decode=1) as pd:
            body = {"text": ["a", "b"], "return_logprob": True, "stream": stream}
            _, answer, _ = await pd.post("/generate", body)
            answers = answer[:-1] if stream else answer
            assert len(answers) == (16 if stream else 2)
            for part in answers:
                assert len(part["meta_info"]["input_token_logprobs"]) == 3

    run(check)


def test_information_comes_from_the_servers() -> None:
    async def check() -> None:
        async with cluster(prefill=1, decode=2) as pd:
            assert (await pd.get("/health"))[0] == 200
            assert (await pd.get("/health_generate"))[0] == 200
            assert (await pd.get("/v1/models"))[1] == {"path": "/v1/models", "from": "prefill-0"}
            assert (await pd.get("/model_info"))[1]["path"] == "/model_info"
            info = (await pd.get("/server_info"))[1]
            assert info["internal_states"] == [{"of": "decode-0"}, {"of": "decode-1"}]
            assert len(info["prefill"]) == 1
            assert len(info["decode"]) == 2
            assert (await pd.ask_admin("POST", "/flush_cache", {}))[0] == 200
            assert [s.flushed for s in pd.servers.values()] == [1, 1, 1]
            pd.servers["decode-0"].loads = {"num_running_reqs": 4}
            assert (await pd.get("/v1/loads"))[1]["loads"] == [
                {"backend": "decode-0", "num_running_reqs": 4}
            ]
            await pd.servers["prefill-0"].stop()
            assert (await pd.get("/v1/models"))[1]["from"] == "decode-0"
            assert (await pd.get("/health_generate"))[0] == 502

    run(check)


def test_status_and_metrics_tell_what_happened() -> None:
    async def check() -> None:
        async with cluster(prefill=1, decode=2) as pd:
            await pd.post("/generate", {"text": "a"})
            await pd.post("/generate", {"text": "a", "stream": True})
            await pd.quiet()
            status = (await pd.ask_admin("GET", "/router/status"))[1]
            assert status["serving"]
            assert [b["in_flight"] for b in status["backends"]] == [0, 0, 0]
            text = (await pd.ask_admin("GET", "/metrics"))[1]
            counted = 'voltana_router_requests_total{endpoint="/generate",outcome="completed"} 2.0'
            assert counted in text
            assert 'source="in-flight"' in text
            assert "voltana_router_first_token_seconds_count 2.0" in text

    run(check)


@pytest.mark.parametrize(
    ("path", "raw", "status", "code"),
    [
        ("/generate", b"{", 400, "invalid_json"),
        ("/generate", b"[1]", 400, "invalid_json"),
        ("/v1/embeddings", b"{}", 404, "not_found"),
    ],
)
def test_mistakes_are_answered_in_openai_s_format(
    path: str, raw: bytes, status: int, code: str
) -> None:
    async def check() -> None:
        async with (
            cluster(unified=1) as one,
            one.client.post(one.url + path, data=raw) as reply,
        ):
            answer = await reply.json()
            assert reply.status == status
            assert answer["error"]["code"] == code
            assert answer["error"]["message"]

    run(check)


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/generate", {"text": "a", "sampling_params": {"n": 2}}),
        ("/generate", {"text": ["a", "b"], "sampling_params": [{"n": 2}, {"n": 2}]}),
        ("/v1/chat/completions", {"messages": [], "n": 3}),
    ],
)
def test_several_answers_to_a_prompt_need_a_unified_server(path: str, body: Any) -> None:
    """Between prefill and decode servers, SGLang would wait for ever."""

    async def check() -> None:
        async with cluster(prefill=1, decode=1) as pd, cluster(unified=1) as one:
            status, answer, _ = await pd.post(path, body)
            assert (status, answer["error"]["code"]) == (400, "unsupported_n")
            assert (await one.post(path, body))[0] == 200

    run(check)


def test_an_address_that_is_taken_is_an_error_of_one_line() -> None:
    async def check() -> None:
        async with cluster(unified=1) as one:
            with pytest.raises(ConfigError, match=r"free address of this machine \(.*in use"):
                async with cluster(unified=1, port=one.service.port):
                    pass

    run(check)


def test_a_request_that_is_too_large_is_refused() -> None:
    async def check() -> None:
        async with cluster(unified=1, max_body_mb=0.001) as one:
            status, answer, _ = await one.post("/generate", {"text": "a" * 5000})
            assert (status, answer["error"]["code"]) == (413, "too_large")
            await one.quiet()

    run(check)


def test_a_server_s_own_refusal_is_passed_on_unchanged() -> None:
    async def check() -> None:
        async with cluster(prefill=1, decode=1) as pd:
            pd.servers["decode-0"].faults.append("400")
            pd.servers["prefill-0"].faults.append("400")
            status, answer, _ = await pd.post("/generate", {"text": "a"})
            assert status == 400
            assert answer["message"].endswith("was told to fail")
            assert len(pd.servers["decode-0"].seen) == 1
            await pd.quiet()

    run(check)


def test_draining_a_server_keeps_new_requests_away_from_it() -> None:
    async def check() -> None:
        async with cluster(prefill=1, decode=2, **PATIENT) as pd:
            slow = pd.servers["decode-0"]
            slow.gate.close()
            opened = asyncio.create_task(pd.post("/generate", {"text": "a"}))
            await until(lambda: slow.gate.waiting)
            drain = {"backend": "decode-0"}
            status, described = await pd.ask_admin("POST", "/router/drain", drain)
            assert (status, described["draining"], described["in_flight"]) == (200, True, 1)
            for _ in range(5):
                assert (await pd.post("/generate", {"text": "b"}))[0] == 200
            assert len(slow.seen) == 1
            slow.gate.open()
            assert (await opened)[0] == 200
            await pd.ask_admin("POST", "/router/drain", drain | {"draining": False})
            await pd.post("/generate", {"text": "b"})
            assert len(slow.seen) == 2
            assert (await pd.ask_admin("POST", "/router/drain", {"backend": "nobody"}))[0] == 404

    run(check)


def test_shutdown_lets_open_requests_end_and_refuses_new_ones() -> None:
    async def check() -> None:
        async with cluster(prefill=1, decode=1, drain_timeout_s=20.0, **PATIENT) as pd:
            decode = pd.servers["decode-0"]
            decode.gate.close()
            opened = asyncio.create_task(pd.post("/generate", {"text": "a", "stream": True}))
            await until(lambda: decode.gate.waiting)
            draining = asyncio.create_task(pd.service.drain())
            await until(lambda: pd.service.forwarder.draining)
            status, answer, headers = await pd.post("/generate", {"text": "b"})
            assert (status, answer["error"]["code"]) == (503, "shutting_down")
            assert headers["Retry-After"] == "1"
            assert (await pd.get("/health"))[0] == 503
            decode.gate.open()
            assert (await opened)[1][-1] == "[DONE]"
            await draining

    run(check)


@pytest.mark.parametrize("stream", [False, True])
def test_shutdown_ends_what_takes_too_long_with_an_error(stream: bool) -> None:
    async def check() -> None:
        async with cluster(prefill=1, decode=1, drain_timeout_s=0.1) as pd:
            pd.servers["decode-0"].gate.close()
            opened = asyncio.create_task(pd.post("/generate", {"text": "a", "stream": stream}))
            await until(lambda: pd.servers["decode-0"].gate.waiting)
            await pd.service.drain()
            status, answer, _ = await opened
            assert (status, answer["error"]["code"]) == (503, "shutting_down")

    run(check)


def test_beyond_the_limit_requests_are_refused_at_once() -> None:
    async def check() -> None:
        async with cluster(unified=1, max_in_flight=2, **PATIENT) as one:
            one.servers["unified-0"].gate.close()
            asked = [asyncio.create_task(one.post("/generate", {"text": "a"})) for _ in range(5)]
            await until(lambda: sum(task.done() for task in asked) == 3)
            one.servers["unified-0"].gate.open()
            answers = await asyncio.gather(*asked)
            refused = [a for a in answers if a[0] != 200]
            assert len(refused) == 3
            for status, answer, headers in refused:
                assert (status, answer["error"]["code"]) == (429, "overloaded")
                assert answer["error"]["type"] == "rate_limit_error"
                assert headers["Retry-After"] == "1"

    run(check)


def test_a_client_can_abort_its_request_by_id() -> None:
    async def check() -> None:
        async with cluster(prefill=1, decode=1, **PATIENT) as pd:
            pd.servers["decode-0"].gate.close()
            body = {"text": "a", "rid": "mine", "stream": True}
            opened = asyncio.create_task(pd.post("/generate", body))
            await until(lambda: pd.servers["decode-0"].gate.waiting)
            assert (await pd.post("/abort_request", {"rid": "mine"}))[0] == 200
            events = (await opened)[1]
            assert len(events) < 8
            own = pd.servers["prefill-0"].seen[0]["rid"]
            assert pd.servers["prefill-0"].aborted == {own}
            assert "mine" not in own
            assert (await pd.post("/abort_request", {"abort_all": True}))[0] == 403
            await pd.ask_admin("POST", "/abort_request", {"abort_all": True})
            assert "*" in pd.servers["decode-0"].aborted
            assert (await pd.post("/abort_request", {}))[0] == 400

    run(check)


def test_requests_are_spread_by_what_is_in_flight() -> None:
    async def check() -> None:
        async with cluster(prefill=2, decode=2, **PATIENT) as pd:
            servers = pd.servers.values()
            for server in servers:
                server.gate.close()
            asked = [asyncio.create_task(pd.post("/generate", {"text": "a"})) for _ in range(20)]
            await until(lambda: sum(len(server.seen) for server in servers) == 40)
            for server in servers:
                server.gate.open()
            assert [answer[0] for answer in await asyncio.gather(*asked)] == [200] * 20
            assert [len(server.seen) for server in servers] == [10, 10, 10, 10]

    run(check)
