"""Virtual servers speak SGLang's protocol: the cases that real ones are held to as well."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from contextlib import contextmanager

import pytest
from protocol_cases import CASES, Pair, get, keys_open_what_they_should, wait_for

from voltana.rehearsal.engine import SETTINGS_VARIABLE, EngineSettings
from voltana.rehearsal.machine import Machine
from voltana.serving.ring_reader import RingReader
from voltana_actuatord.timebase import FACTOR_VARIABLE
from voltana_ring.layout import Change, Kind
from voltana_sglang import CONFIG_VARIABLE, INSTANCE_VARIABLE

KEY, ADMIN = "sk-of-the-clients", "sk-of-the-admin"


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextmanager
def server(folder, name, *arguments):
    port = free_port()
    variables = {
        FACTOR_VARIABLE: "1",
        SETTINGS_VARIABLE: str(folder / "engines.json"),
        CONFIG_VARIABLE: str(folder / "cluster.toml"),
        INSTANCE_VARIABLE: name,
    }
    command = ["--model-path", "m", "--port", str(port), "--tp-size", "1", *arguments]
    process = subprocess.Popen(
        [sys.executable, "-m", "voltana_sglang.rehearsal.server", *command],
        env=os.environ | variables,
    )
    url = f"http://127.0.0.1:{port}"

    def answers():
        try:
            return get(f"{url}/health")[0] == 200
        except OSError:
            assert process.poll() is None
            return False

    try:
        assert wait_for(answers, 90.0)
        yield url
    finally:
        process.terminate()
        assert process.wait(20) == 0


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Files of a rehearsal without a driver's library: engines read its memory alone."""
    made = tmp_path_factory.mktemp("protocol")
    (made / "records").mkdir()
    (made / "cluster.toml").write_text('[agent]\nrings = "rings"\n')
    with Machine(made, made, 2) as machine:
        EngineSettings(
            hardware="a100-sxm4-80gb",
            model="llama-3.1-8b",
            tensor_parallel=1,
            ttft_ms=600.0,
            itl_ms=65.0,
            seed=0,
            options={},
            state=str(machine.path),
            gpus={"prefill-0": (0,), "decode-0": (1,), "guarded": (1,)},
            records=str(made / "records"),
        ).write(made / "engines.json")
        yield made


@pytest.fixture(scope="module")
def pair(folder):
    door = free_port()
    prefill = "--disaggregation-mode", "prefill", "--disaggregation-bootstrap-port", str(door)
    with (
        server(folder, "prefill-0", *prefill) as first,
        server(folder, "decode-0", "--disaggregation-mode", "decode") as second,
    ):
        yield Pair(prefill=first, decode=second, bootstrap=("127.0.0.1", door))


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__)
def test_a_virtual_pair_answers_as_sglang_does(pair, case):
    case(pair)


def test_the_ring_tells_of_every_request_what_became_of_it(folder, pair):
    readers = [
        RingReader(folder / "rings" / f"{name}@dp0.pp0.tp0.ring")
        for name in ("prefill-0", "decode-0")
    ]
    fields = {"input_ids": [1] * 300, "sampling_params": {"max_new_tokens": 20}}
    pair.ask("/generate", **fields)
    records = []
    for reader in readers:
        found = []
        wait_for(lambda reader=reader, found=found: found.extend(reader.drain()) or any(
            record.kind is Kind.IDLE for record in found
        ), 10.0)  # fmt: skip
        records.append(found)
    prefill, decode = records
    loads = [r.load for r in prefill if r.kind is Kind.LAUNCHED]
    assert [load.prefill_tokens for load in loads] == [300]
    assert [c.what for r in prefill for c in r.changes] == [Change.WAITS, Change.FIRST]
    launched = [r for r in decode if r.kind is Kind.LAUNCHED]
    assert [r.load.decode_kv_tokens for r in launched] == list(range(301, 320))
    assert sum(map(len, (r.rooms for r in launched))) == 1
    ended = [c for r in decode for c in r.changes]
    assert [c.what for c in ended] == [Change.JOINED, Change.ENDED]
    assert ended[-1].tokens == 20
    finished = [r for r in decode if r.kind is Kind.FINISHED]
    assert len(finished) == len(launched)
    assert all(0.0 < r.latency_s < 0.1 for r in finished)


def test_a_prefill_server_that_is_away_fails_the_request(pair):
    body = pair.body(input_ids=[1, 2, 3], sampling_params={"max_new_tokens": 4})
    from protocol_cases import post

    status, answer = post(f"{pair.decode}/generate", body | {"bootstrap_port": free_port()})
    assert status == 500
    assert "is away" in answer["error"]["message"]
    assert pair.running() == 0


def test_keys_open_what_they_should(folder):
    guarded = "--disaggregation-mode", "decode", "--api-key", KEY, "--admin-api-key", ADMIN
    with server(folder, "guarded", *guarded) as url:
        keys_open_what_they_should(url, KEY, ADMIN)
