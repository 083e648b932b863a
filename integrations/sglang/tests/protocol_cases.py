"""SGLang's protocol as the router relies on it: one suite, for real servers and for virtual ones.

A case is a function of a pair of servers; only the standard library speaks to them.
"""

from __future__ import annotations

import http.client
import json
import secrets
import threading
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from urllib.parse import urlsplit

from voltana.values import Role
from voltana_sglang.dialect.errors import error_in, error_in_whole
from voltana_sglang.dialect.loads import LOADS_PATH, LOADS_QUERY, listed, state_of

TOKENS = 6
LONG = 1500
PROMPT = [5, 6, 7, 8, 9, 10, 11]


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Two servers, and the door at which decode asks prefill."""

    prefill: str
    decode: str
    bootstrap: tuple[str, int]

    def body(self, **fields):
        """A request for both legs."""
        batch = isinstance(fields.get("input_ids", [0])[0], list) and len(fields["input_ids"])

        def each(value):
            return [value() for _ in range(batch)] if batch else value()

        return {
            "bootstrap_host": each(lambda: self.bootstrap[0]),
            "bootstrap_port": each(lambda: self.bootstrap[1]),
            "bootstrap_room": each(lambda: secrets.randbelow(2**62)),
            **fields,
        }

    def ask(self, path, **fields):
        """Status and answer of both legs, prefill first; events where they are a stream."""
        body = self.body(**fields)
        with ThreadPoolExecutor(2) as pool:
            legs = [pool.submit(post, url + path, body) for url in (self.prefill, self.decode)]
            return [leg.result() for leg in legs]

    def running(self):
        """Requests that either server has."""
        return sum(
            state_of(listed(get(url + LOADS_PATH + LOADS_QUERY)[1]), role).running_requests
            + state_of(listed(get(url + LOADS_PATH + LOADS_QUERY)[1]), role).queued_requests
            for url, role in ((self.prefill, Role.PREFILL), (self.decode, Role.DECODE))
        )


def post(url, body, key=None, timeout_s=120.0):
    """Status and answer; the events of a stream, the last one as text."""
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return _open(urllib.request.Request(url, raw, _headers(key)), timeout_s)


def get(url, key=None):
    """Status and answer."""
    return _open(urllib.request.Request(url, None, _headers(key)), 60.0)


def _headers(key):
    return {"Content-Type": "application/json"} | (
        {"Authorization": f"Bearer {key}"} if key else {}
    )


def _open(request, timeout_s):
    try:
        with urllib.request.urlopen(request, timeout=timeout_s) as reply:
            status, raw, kind = reply.status, reply.read(), reply.headers.get("Content-Type", "")
    except urllib.error.HTTPError as error:
        status, raw, kind = error.code, error.read(), ""
    if kind.startswith("text/event-stream"):
        return status, [_event(part) for part in raw.split(b"\n\n") if part]
    try:
        return status, json.loads(raw)
    except ValueError:
        return status, raw


def _event(part):
    text = part.removeprefix(b"data: ")
    return text.decode() if text == b"[DONE]" else json.loads(text)


def wait_for(condition, timeout_s=60.0):
    ends_s = time.monotonic() + timeout_s
    while time.monotonic() < ends_s:
        if condition():
            return True
        time.sleep(0.05)
    return False


def params(tokens=TOKENS):
    return {"temperature": 0, "max_new_tokens": tokens, "ignore_eos": True}


def whole_answer(pair):
    (first, prefill), (status, answer) = pair.ask(
        "/generate", input_ids=PROMPT, sampling_params=params(), rid="one"
    )
    assert first == status == 200
    assert len(answer["output_ids"]) == TOKENS
    assert isinstance(answer["text"], str)
    meta = answer["meta_info"]
    assert meta["id"] == "one"
    assert meta["prompt_tokens"] == prefill["meta_info"]["prompt_tokens"] == len(PROMPT)
    assert meta["completion_tokens"] == TOKENS
    assert meta["finish_reason"]["type"] == "length"
    assert error_in_whole("decode-0", json.dumps(answer).encode()) is None


def streamed_answer(pair):
    (first, _), (status, events) = pair.ask(
        "/generate", input_ids=PROMPT, sampling_params=params(), stream=True
    )
    assert first == status == 200
    assert events[-1] == "[DONE]"
    counts = [event["meta_info"]["completion_tokens"] for event in events[:-1]]
    assert counts == sorted(counts)
    assert counts[0] >= 1
    assert counts[-1] == TOKENS
    reasons = [event["meta_info"]["finish_reason"] for event in events[:-1]]
    assert reasons[:-1] == [None] * (len(reasons) - 1)
    assert reasons[-1]["type"] == "length"
    texts = [event["text"] for event in events[:-1]]
    assert all(later.startswith(text) for text, later in pairwise(texts))


def batch_of_prompts(pair):
    prompts = [PROMPT, PROMPT[:3]]
    (first, _), (status, answers) = pair.ask(
        "/generate", input_ids=prompts, sampling_params=params()
    )
    assert first == status == 200
    assert [one["meta_info"]["prompt_tokens"] for one in answers] == [7, 3]
    assert [one["meta_info"]["completion_tokens"] for one in answers] == [TOKENS, TOKENS]


def streamed_batch(pair):
    prompts = [PROMPT, PROMPT[:3]]
    _, (status, events) = pair.ask(
        "/generate", input_ids=prompts, sampling_params=params(), stream=True
    )
    assert status == 200
    assert events[-1] == "[DONE]"
    most = {}
    for event in events[:-1]:
        most[event["index"]] = event["meta_info"]["completion_tokens"]
    assert most == {0: TOKENS, 1: TOKENS}


def completions(pair):
    fields = {
        "model": "m",
        "prompt": "One two three four",
        "max_tokens": TOKENS,
        "ignore_eos": True,
    }
    _, (status, answer) = pair.ask("/v1/completions", **fields)
    assert status == 200, answer
    assert answer["object"] == "text_completion"
    assert answer["choices"][0]["finish_reason"] == "length"
    assert answer["usage"]["completion_tokens"] == TOKENS
    _, (status, events) = pair.ask("/v1/completions", **fields, stream=True)
    assert status == 200
    assert events[-1] == "[DONE]"
    assert "".join(e["choices"][0]["text"] for e in events[:-1] if e["choices"])


def chat(pair):
    fields = {
        "model": "m",
        "messages": [{"role": "user", "content": "One two three"}],
        "max_tokens": TOKENS,
        "ignore_eos": True,
    }
    _, (status, answer) = pair.ask("/v1/chat/completions", **fields)
    assert status == 200, answer
    assert answer["object"] == "chat.completion"
    assert answer["choices"][0]["message"]["role"] == "assistant"
    assert answer["choices"][0]["finish_reason"] == "length"
    _, (status, events) = pair.ask("/v1/chat/completions", **fields, stream=True)
    assert status == 200
    assert events[-1] == "[DONE]"
    assert all(e["object"] == "chat.completion.chunk" for e in events[:-1])


def wrong_requests(pair):
    for body in (
        {"sampling_params": params()},
        {"input_ids": PROMPT, "sampling_params": {"max_new_tokens": -1}},
        {"input_ids": [1] * 3_000_000, "sampling_params": params()},
    ):
        status, answer = post(f"{pair.decode}/generate", pair.body(**body))
        assert status == 400, (list(body), status, answer)
        assert answer["error"]["message"]
    for raw in (b"{", b"[]", b'"a"'):
        status, _ = post(f"{pair.decode}/generate", raw)
        assert 400 <= status < 500, (raw, status)
    assert pair.running() == 0


def abort_by_id(pair):
    rid = f"abort-{secrets.token_hex(4)}"
    told = []
    asking = threading.Thread(
        target=lambda: told.append(
            pair.ask(
                "/generate", input_ids=PROMPT, sampling_params=params(LONG), stream=True, rid=rid
            )
        )
    )
    asking.start()
    assert wait_for(lambda: pair.running() > 0)
    for url in (pair.prefill, pair.decode):
        assert post(f"{url}/abort_request", {"rid": rid})[0] == 200
    asking.join(60.0)
    assert not asking.is_alive()
    _, (status, events) = told[0]
    assert status == 200
    last = next(event for event in reversed(events) if isinstance(event, dict))
    assert last["meta_info"]["finish_reason"]["type"] == "abort"
    assert last["meta_info"]["completion_tokens"] < LONG
    problem = error_in("decode-0", b"data: " + json.dumps(last).encode())
    assert problem is not None
    assert wait_for(lambda: pair.running() == 0)


def client_that_leaves(pair):
    body = json.dumps(
        pair.body(input_ids=PROMPT, sampling_params=params(LONG), stream=True)
    ).encode()
    open_legs = []
    for url in (pair.prefill, pair.decode):
        leg = http.client.HTTPConnection(urlsplit(url).netloc, timeout=60)
        leg.request("POST", "/generate", body, {"Content-Type": "application/json"})
        open_legs.append(leg)
    assert open_legs[1].getresponse().read(10)
    for leg in open_legs:
        leg.close()
    assert wait_for(lambda: pair.running() == 0)


def pages(pair):
    for url, mode in ((pair.prefill, "prefill"), (pair.decode, "decode")):
        assert get(f"{url}/health")[0] == 200
        assert get(f"{url}/v1/models")[1]["data"][0]["id"]
        assert get(f"{url}/model_info")[1]["model_path"]
        assert get(f"{url}/server_info")[1]["disaggregation_mode"] == mode
        assert wait_for(lambda url=url: post(f"{url}/flush_cache", {})[0] == 200, 20.0)


CASES = (
    whole_answer,
    streamed_answer,
    batch_of_prompts,
    streamed_batch,
    completions,
    chat,
    wrong_requests,
    abort_by_id,
    client_that_leaves,
    pages,
)


def keys_open_what_they_should(url, key, admin):
    """For one server, whatever it serves."""
    assert get(f"{url}/health")[0] == 200
    for path in ("/v1/models", "/server_info", "/v1/loads"):
        assert get(url + path)[0] == 401
        assert get(url + path, key)[0] == 200
    for path in ("/abort_request", "/flush_cache"):
        assert post(url + path, {"rid": "nobody"})[0] == 401
        assert post(url + path, {"rid": "nobody"}, key)[0] == 401
        assert post(url + path, {"rid": "nobody"}, admin)[0] == 200
