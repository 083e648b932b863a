"""Whatever comes in whatever order, every iteration is told as the scheduler meant it."""

from __future__ import annotations

import random

import pytest
from fake_vllm import Request
from hooked import Bench

from voltana_ring.layout import Change, Kind

SCENARIOS = 60
STEPS = 120


class Scenario:
    """Requests that come, leave and hand KV caches over, drawn by a seed.

    Args:
        folder: Where the ring goes.
        seed: Of what is drawn.
    """

    def __init__(self, folder, seed):
        self.rng = rng = random.Random(seed)
        asynchronous = rng.random() < 0.5
        self.bench = Bench(
            folder,
            waits=rng.random() < 0.5,
            asynchronous=asynchronous,
            drafts=0 if asynchronous else rng.choice((0, 0, 2)),
            seed=seed,
            budget=rng.choice((32, 64, 2048)),
            running=rng.choice((2, 6, 16)),
            blocks=rng.choice((200, 300, 700, 10_000)),
            longest=rng.choice((24, 10**9, 10**9)),
        )
        self.shares = rng.choice(((1.0, 0.0), (0.5, 0.5), (0.5, 0.0), (0.0, 1.0)))
        self.count = 0

    def run(self):
        """Feed the scheduler for a while, and let it end what it has."""
        bench, rng = self.bench, self.rng
        for _ in range(STEPS):
            for _ in range(rng.choice((0, 0, 0, 1, 3))):
                self.add()
            if rng.random() < 0.1:
                self.abort()
            self.fetch()
            bench.core.step()
            bench.tick(0.01 * rng.random())
            bench.records += bench.reader.drain()
        for _ in range(5000):
            self.fetch()
            if not bench.core.step():
                break
            bench.records += bench.reader.drain()
        bench.records += bench.reader.drain()

    def add(self):
        """A request of this server alone, or of a pair."""
        rng, bench = self.rng, self.bench
        alone, fetches = self.shares
        drawn, params, tokens = rng.random(), None, rng.choice((1, 3, 20))
        if drawn >= alone:
            if rng.random() < fetches:
                params = {"do_remote_prefill": True, "remote_engine_id": "e"}
            else:
                params, tokens = {"do_remote_decode": True}, 1
        prompt = rng.randint(1, 150)
        bench.scheduler.add_request(
            Request(
                f"r{self.count}", prompt, tokens, bench.wall_s,
                params=params, cached=rng.choice((0, 0, prompt // 2)),
            )
        )  # fmt: skip
        self.count += 1

    def abort(self):
        """A client leaves."""
        requests = list(self.bench.scheduler.requests)
        if requests:
            self.bench.scheduler.abort(self.rng.choice(requests))

    def fetch(self):
        """KV caches arrive, and others are fetched."""
        scheduler, rng = self.bench.scheduler, self.rng
        for request in list(scheduler.skipped):
            if rng.random() < 0.3:
                scheduler.fetched.add(request.request_id)
                if rng.random() < 0.1 and request.num_prompt_tokens > 1 and not request.in_cache:
                    scheduler.failed.add(request.request_id)
        for rid, request in list(scheduler.requests.items()):
            if request.is_finished() and rng.random() < 0.3:
                scheduler.release(rid)


@pytest.mark.parametrize("seed", range(SCENARIOS))
def test_whatever_comes_is_told_as_it_was_scheduled(tmp_path, seed):
    scenario = Scenario(tmp_path, seed)
    scenario.run()
    bench = scenario.bench
    assert bench.meter.errors == bench.reader.lost == bench.reader.torn == 0
    steps = [output for output in bench.core.outputs if output.total_num_scheduled_tokens]
    launched = bench.of(Kind.LAUNCHED)
    assert [record.iteration for record in launched] == list(range(1, len(steps) + 1))
    for record, output in zip(launched, steps, strict=True):
        truth, load = bench.scheduler.truth[id(output)], record.load
        found = load.prefill_tokens, load.decode_requests, load.decode_kv_tokens
        assert found == (
            sum(new for new, _ in truth.prefill.values()),
            len(truth.decode),
            sum(truth.decode.values()),
        ), record.iteration
        assert load.prefill_attended_pairs == sum(
            new * before + new * (new + 1) / 2 for new, before in truth.prefill.values()
        )
    assert [r.iteration for r in bench.of(Kind.FINISHED)] == [r.iteration for r in launched]
    of_each = {}
    for change in bench.changes:
        of_each.setdefault(change.name, []).append(change)
    ends = {Change.ENDED, Change.ABORTED, Change.GONE}
    for changes in of_each.values():
        assert sum(change.what in ends for change in changes) <= 1
        assert [c.what for c in changes].count(Change.FIRST) <= 1
    bench.close()
