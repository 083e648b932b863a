"""A real server with both of SGLang's keys, behind the router, and before a calibration."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from typing import TYPE_CHECKING, Any

import pytest

from router_process import router
from servers import ServerSpec, wait_for
from voltana.serving.profile.run import ProfiledServer, ProfileRunError
from voltana.serving.router.keys import Keys

if TYPE_CHECKING:
    from pathlib import Path

    from servers import Fleet, Server

KEY, ADMIN = "sk-of-the-clients", "sk-of-the-admin"
LONG = {"max_new_tokens": 2000, "ignore_eos": True}


@pytest.fixture
def guarded(fleet: Fleet) -> Server:
    keys = ("--api-key", KEY, "--admin-api-key", ADMIN)
    return fleet.get(ServerSpec(name="guarded", arguments=keys))[0]


def ask(url: str, key: str | None, body: Any = None, timeout_s: float = 120.0) -> tuple[int, Any]:
    """Status and answer; an answer that is no JSON is None."""
    headers = {"Content-Type": "application/json"}
    if key is not None:
        headers["Authorization"] = f"Bearer {key}"
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, headers)
    try:
        with urllib.request.urlopen(request, timeout=timeout_s) as reply:
            return int(reply.status), json.loads(reply.read())
    except urllib.error.HTTPError as error:
        return int(error.code), None


def running(server: Server) -> int:
    loads = ask(f"{server.url}/v1/loads", KEY)[1]["loads"]
    return sum(load["num_running_reqs"] for load in loads)


def test_the_router_has_the_keys_that_it_needs_and_lends_none(
    guarded: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VOLTANA_SGLANG_API_KEY", KEY)
    monkeypatch.setenv("VOLTANA_SGLANG_ADMIN_API_KEY", ADMIN)
    short = {"text": "a", "sampling_params": {"max_new_tokens": 4}}
    with router(tmp_path, guarded) as made:
        generate = f"{made.url}/generate"
        assert ask(generate, KEY, short)[0] == 200
        assert ask(generate, None, short)[0] == 401
        assert wait_for(lambda: made.status()["unified-0"]["state"] == "loads")
        with pytest.raises(TimeoutError):  # a client that leaves
            ask(generate, KEY, {"text": "b", "sampling_params": LONG}, timeout_s=1.0)
        assert wait_for(lambda: running(guarded) == 0)
        said = made.log.read_text()
        assert "refuses" not in said
        assert KEY not in said
        assert ADMIN not in said


def test_a_calibration_needs_the_admin_key_to_flush(guarded: Server) -> None:
    ProfiledServer(guarded.url, keys=Keys(KEY, ADMIN))._flush()
    with pytest.raises(ProfileRunError, match=r"401.*_ADMIN_API_KEY"):
        ProfiledServer(guarded.url, keys=Keys(KEY))._flush()
    with pytest.raises(ProfileRunError, match=r"401.*VOLTANA_SGLANG_API_KEY"):
        ProfiledServer(guarded.url)
