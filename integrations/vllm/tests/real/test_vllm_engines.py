"""The plugin in real servers of other kinds: short of blocks, in parallel, with drafts."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from measured import Ring, counter, details_in, finished, load
from vllm_server import VllmServer, ask, prompt_of
from voltana_ring.layout import Change, Flag

if TYPE_CHECKING:
    from pathlib import Path

    from voltana.serving.ring_records import Record

PORT = 23230
SETTLE_S = 3.0
BLOCKS = 24
"""Far fewer than the requests need that run at once."""
DRAFTS = '{"method": "ngram", "num_speculative_tokens": 3, "prompt_lookup_max": 2}'
"""What followed before on the same two tokens is drafted."""
FEW = [5, 6]
"""Where answers are of these alone, much is said again, and some drafts are right."""


def server(model: Path, config: Path, name: str, *arguments: str) -> VllmServer:
    own = {"VOLTANA_VLLM_CONFIG": str(config), "VOLTANA_VLLM_INSTANCE": name}
    log = config.with_name(f"{name}.log")
    return VllmServer(model, PORT, log, arguments, own)


def count(records: list[Record], what: Change) -> int:
    return sum(change[2] is what for record in records for change in record.changes)


def test_what_is_preempted_is_measured_and_told_once(model: Path, config: Path) -> None:
    short = ["--num-gpu-blocks-override", str(BLOCKS), "--no-async-scheduling"]
    with server(model, config, "short-0", *short) as made:
        made.wait()
        ring = Ring(config.with_name("rings"), "short-0")
        time.sleep(SETTLE_S)
        ring.taken()
        log, records = len(details_in(made.text())), []
        for seed in range(6):
            load(made.url, requests=40, at_once=16, seed=seed, tokens=200)
            records += ring.taken()
        time.sleep(SETTLE_S)
        records += ring.taken()
        ring.close()
        assert counter(ask(made.url + "/metrics"), "vllm:num_preemptions_total") > 0
        measured, told = finished(records), details_in(made.text())[log:]
        # What is computed again is a prompt here and decoding there: tokens are the same.
        assert [r.load.prefill_tokens + r.load.decode_requests for r in measured] == [
            d.prompt_tokens + d.decode_tokens for d in told
        ]
        assert "voltana: error" not in made.text()
    for what in (Change.WAITS, Change.FIRST, Change.JOINED, Change.ENDED):
        assert count(records, what) == 240, what


def test_each_engine_of_a_data_parallel_server_has_a_ring(model: Path, config: Path) -> None:
    with server(model, config, "dp-0", "--data-parallel-size", "2") as made:
        made.wait()
        rings = [Ring(config.with_name("rings"), "dp-0", rank) for rank in range(2)]
        time.sleep(SETTLE_S)
        before = ask(made.url + "/metrics")
        for ring in rings:
            ring.taken()
        load(made.url, requests=60, at_once=8, seed=1)
        time.sleep(SETTLE_S)
        taken = [ring.taken() for ring in rings]
        for ring in rings:
            ring.close()
        after = ask(made.url + "/metrics")
    assert [ring.reader.info["dp_rank"] for ring in rings] == [0, 1]
    assert all(len(finished(records)) > 20 for records in taken)
    grown = {
        name: counter(after, f"vllm:{name}") - counter(before, f"vllm:{name}")
        for name in ("prompt_tokens_total", "prompt_tokens_cached_total")
    }
    prompts = sum(r.load.prefill_tokens for records in taken for r in finished(records))
    assert prompts + grown["prompt_tokens_cached_total"] == grown["prompt_tokens_total"]
    assert sum(count(records, Change.ENDED) for records in taken) == 60


def test_drafts_are_no_requests_and_no_prompts(model: Path, config: Path) -> None:
    with server(model, config, "drafts-0", "--speculative-config", DRAFTS) as made:
        made.wait()
        ring = Ring(config.with_name("rings"), "drafts-0")
        time.sleep(SETTLE_S)
        ring.taken()
        log, before = len(details_in(made.text())), ask(made.url + "/metrics")
        load(made.url, requests=60, at_once=8, seed=3, tokens=100)
        for seed in range(4):
            made.complete(prompt_of(60, seed), 100, allowed_token_ids=FEW)
        time.sleep(SETTLE_S)
        records, after = ring.taken(), ask(made.url + "/metrics")
        ring.close()
        told = details_in(made.text())[log:]
    measured = finished(records)
    assert [(r.load.prefill_tokens, r.load.decode_requests) for r in measured] == [
        (d.prompt_tokens, d.decoding) for d in told
    ]
    assert any(d.decode_tokens > d.decoding for d in told)
    accepted = "vllm:spec_decode_num_accepted_tokens_total"
    assert counter(after, accepted) > counter(before, accepted)
    assert all(r.flags & Flag.SPECULATIVE for r in measured)
    for what in (Change.WAITS, Change.FIRST, Change.ENDED):
        assert count(records, what) == 64, what


def test_an_engine_of_two_workers_has_one_account(model: Path, config: Path) -> None:
    """Of tensor parallelism; stages of a pipeline fail on a CPU at the first request."""
    with server(model, config, "shards-0", "--tensor-parallel-size", "2") as made:
        made.wait()
        ring = Ring(config.with_name("rings"), "shards-0")
        time.sleep(SETTLE_S)
        ring.taken()
        log = len(details_in(made.text()))
        load(made.url, requests=60, at_once=8, seed=4)
        time.sleep(SETTLE_S)
        records = ring.taken()
        ring.close()
        told = details_in(made.text())[log:]
        assert "voltana: error" not in made.text()
    assert [(r.load.prefill_tokens, r.load.decode_requests) for r in finished(records)] == [
        (d.prompt_tokens, d.decoding) for d in told
    ]
    for what in (Change.WAITS, Change.FIRST, Change.JOINED, Change.ENDED):
        assert count(records, what) == 60, what
    assert ring.reader.info["tp_size"] == 2
